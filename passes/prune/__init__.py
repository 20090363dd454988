"""Passes that remove channels, and their helpers."""
