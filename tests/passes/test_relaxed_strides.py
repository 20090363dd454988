"""Views after operators whose strides a pass changes become reshapes, also through aliases between them."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from recfx.passes._strides import relax_views

_aten = torch.ops.aten

#: Operators between them, each with its arguments after the tensor [2, 1, 6], and whether the result may share its
#: memory.
BETWEEN: dict[str, tuple[Any, tuple[Any, ...], bool]] = {
    "squeeze": (_aten.squeeze.default, (), True),
    "squeeze of several": (_aten.squeeze.dims, ([1],), True),
    "unsafe view": (_aten._unsafe_view.default, ([2, 6],), True),
    "swapped axes": (_aten.swapaxes.default, (0, 1), True),
    "matrix transpose": (_aten.mT.default, (), True),
    "narrow": (_aten.narrow.default, (2, 0, 3), True),
    "chunks": (_aten.chunk.default, (2, 2), True),
    "select": (_aten.select.int, (1, 0), True),
    "copy": (_aten.clone.default, (), False),
    "sum": (_aten.sum.dim_IntList, ([2],), False),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_views_behind_aliases_become_reshapes(name: str) -> None:
    target, args, shares = BETWEEN[name]
    graph = fx.Graph()
    changed = graph.call_function(_aten.relu.default, (graph.placeholder("x"),))
    between = graph.call_function(target, (changed, *args))
    if target is _aten.chunk.default:
        between = graph.call_function(operator.getitem, (between, 0))
    view = graph.call_function(_aten.view.default, (between, [-1]))
    relax_views([changed])
    assert view.target is (_aten.reshape.default if shares else _aten.view.default)
    assert between.target is not _aten._unsafe_view.default
