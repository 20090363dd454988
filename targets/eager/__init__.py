"""The eager backend: ATen operators called one after another by a flat generated function."""

from recfx.targets.eager.backend import EagerBackend

__all__ = ["EagerBackend"]
