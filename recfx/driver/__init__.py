"""The road from a model to a compiled model, and the later operations on it: report, refresh, saving and loading."""
