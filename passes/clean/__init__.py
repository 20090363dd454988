"""Passes that bring a graph into one spelling and remove duplicates."""
