"""Helpers of the capture tests: inputs, and the comparison of a program with its model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(model: nn.Module, program: Any, *args: Any, **kwargs: Any) -> None:
    flat = torch.utils._pytree.tree_flatten
    want, want_spec = flat(model(*args, **kwargs))
    got, got_spec = flat(program(*args, **kwargs))
    assert want_spec == got_spec
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
