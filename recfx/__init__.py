"""recfx: a graph optimiser for recommendation models on PyTorch."""
