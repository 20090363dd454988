"""Places of values in plans: reshaping."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.targets.native.values import Dim, Value, contiguous, reshape


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[Dim], list[Dim]]:
    """Two shapes of the same elements, the batch somewhere in both."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    at = draw(st.integers(0, len(sizes)))
    old = [Dim(s, 0) for s in sizes[:at]] + [Dim(1, 0, True)] + [Dim(s, 0) for s in sizes[at:]]
    new: list[Dim] = []
    for d in old:
        if d.batch or not new or new[-1].batch or draw(st.booleans()):
            new.append(d)
        else:
            new[-1] = Dim(new[-1].size * d.size, 0)
    return old, new


@settings(deadline=None, max_examples=200)
@given(shapes(), st.booleans())
def test_reshaping_moves_nothing(shapes: tuple[list[Dim], list[Dim]], back: bool) -> None:
    """A reshaped value names the same elements in the same order, for every batch row."""
    old, new = shapes[::-1] if back else shapes
    value = contiguous(0, old)
    found = reshape(value, new)
    assert found is not None

    def elements(v: Value) -> list[int]:
        tensor = torch.arange(value.width).as_strided([d.size for d in v.dims], [d.stride for d in v.dims], v.offset)
        return tensor.flatten().tolist()

    assert elements(found) == elements(value)
