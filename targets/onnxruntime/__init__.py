"""The ONNX Runtime backend: a region as an ONNX model that reads and writes torch's memory."""

from recfx.targets.onnxruntime.backend import OnnxruntimeBackend

__all__ = ["OnnxruntimeBackend"]
