"""The OpenVINO backend: regions as OpenVINO models on the CPU. Needs the package openvino, which is imported at its first use."""

from recfx.targets.openvino.backend import OpenVINOBackend

__all__ = ["OpenVINOBackend"]
