"""Analyses of graphs, for passes."""
