"""Passes that compute at compile time what depends on the weights alone."""
