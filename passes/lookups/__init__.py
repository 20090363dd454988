"""Passes that group the lookups of embedding tables."""
