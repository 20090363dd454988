"""Passes for cross layers (DCN) and mixtures of them."""
