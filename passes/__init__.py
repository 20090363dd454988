"""Built-in passes."""

DEFAULT_PIPELINE = ""
