"""The check of new nodes for symbolic numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx import graph as fx_graph
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from recfx.ir.graph_checks import quick_argument_checks, symbolic_leaves


def _size() -> torch.SymInt:
    env = ShapeEnv()
    symbol = env.create_unbacked_symint()
    assert isinstance(symbol, torch.SymInt)
    return symbol


SIZE = _size()
LEAVES = st.sampled_from([1, 2.5, "x", None, torch.float32, SIZE])
ARGUMENTS = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), parts, max_size=3)
    ),
)


@given(st.lists(ARGUMENTS, max_size=4).map(tuple))
@settings(deadline=None, max_examples=40)
def test_the_symbolic_numbers_are_those_among_all_leaves(arguments: Any) -> None:
    expected = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.SymInt)]
    assert len(list(symbolic_leaves(arguments))) == len(expected)


@pytest.mark.parametrize("argument", [SIZE, [1, SIZE], {"size": (SIZE,)}, slice(None, SIZE)])
def test_graphs_still_warn_of_symbolic_numbers(argument: Any) -> None:
    graph = fx.Graph()
    with quick_argument_checks(), pytest.warns(UserWarning, match="Raw SymInt"):
        graph.call_function(torch.add, (argument,))


def test_the_check_of_torch_is_put_back() -> None:
    own = fx_graph.pytree  # type: ignore[attr-defined]
    with quick_argument_checks():
        with quick_argument_checks():
            assert fx_graph.pytree is not own  # type: ignore[attr-defined]
        assert fx_graph.pytree is not own  # type: ignore[attr-defined]
    assert fx_graph.pytree is own  # type: ignore[attr-defined]
