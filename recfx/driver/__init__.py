"""The stages from a model to a compiled model, and its later operations: report, refresh, saving and loading."""
