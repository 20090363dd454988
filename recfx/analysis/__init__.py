"""Facts about a graph that passes ask for."""
