"""Passes that store tables and weights with fewer bits."""
