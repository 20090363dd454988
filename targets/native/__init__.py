"""The native backend: C++ kernels for recommendation models on CPUs, reached through a plain C interface."""

from recfx.targets.native.backend import NativeBackend

__all__ = ["NativeBackend"]
