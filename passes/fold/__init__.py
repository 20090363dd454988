"""Passes that compute at compile time the values that depend on the weights alone."""
