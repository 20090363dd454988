"""Passes that fuse target attention (DIN)."""
