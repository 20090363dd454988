"""Passes that fuse interactions of field vectors: pairwise dot products and factorization machines."""
