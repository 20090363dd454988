"""Programs as ONNX models: operators of ATen and of the dialect are translated one by one, without tracing the program again.

A region keeps the shapes and types of its values, so each operator becomes a few ONNX nodes at once: milliseconds for a region, where
torch's exporter takes a second. `rules` has the translation of each operator; operators without one are decomposed first.
"""
