"""The road from a model to a compiled model, and what happens to it afterwards: report, refresh, saving and loading."""
