"""TorchRec's sparse modules during capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def opaque_sparse_modules(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Gives the model in the form that can be exported; put back as it was on leaving."""
    yield model
