"""Passes that bring a graph into one spelling and remove what is there twice."""
