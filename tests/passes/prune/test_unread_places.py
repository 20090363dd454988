"""Places of an axis that no operator takes, form by form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recfx.capture import capture
from recfx.passes.prune.unread_places import has_unread_places


class _Of(nn.Module):
    """A function of relu(x) for x [batch, 6].

    Args:
        function: The function.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.relu(x))


UNREAD: dict[str, Callable[[Tensor], Any]] = {
    "slice": lambda h: h[:, 2:],
    "slice from the end": lambda h: h[:, :-1],
    "narrow": lambda h: h.narrow(1, 1, 3),
    "two slices with a gap": lambda h: h[:, :2] + h[:, 4:],
    "select": lambda h: h[:, -1],
    "split": lambda h: h.split([1, 5], 1)[1],
    "chunk": lambda h: h.chunk(3, -1)[0] + h.chunk(3, -1)[2],
}

READ: dict[str, Callable[[Tensor], Any]] = {
    "whole": lambda h: h * 2,
    "two slices": lambda h: h[:, :3] * h[:, 3:],
    "overlapping slices": lambda h: h[:, :4] * h[:, 2:],
    "a slice and the whole": lambda h: h[:, :3].sum(1, keepdim=True) + h,
    "rows": lambda h: h[1:],
    "a step": lambda h: h[:, ::2],
    "all parts of a split": lambda h: torch.stack(h.split(3, 1)),
    "all parts of unbind": lambda h: sum(h.unbind(1)),
}


@pytest.mark.parametrize("name", UNREAD)
def test_unread(name: str) -> None:
    assert has_unread_places(capture(_Of(UNREAD[name]).eval(), (torch.randn(5, 6),)).graph)


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    assert not has_unread_places(capture(_Of(READ[name]).eval(), (torch.randn(5, 6),)).graph)
