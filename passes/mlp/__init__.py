"""Passes that fuse linears and their activations."""
