"""The TensorRT backend: regions as engines on a GPU of NVIDIA. Needs the package torch-tensorrt, which is imported at its first use."""

from recfx.targets.tensorrt.backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
