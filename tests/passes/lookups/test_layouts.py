"""Layouts of joins are made once, and again where a node inside them changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from recfx.ir import Program
from recfx.passes.lookups import layouts as layouts_module
from recfx.passes.lookups.layouts import Layouts
from recfx.pipeline import PassContext, PassSpec
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def joins() -> tuple[GraphBuilder, dict[str, fx.Node]]:
    """Two joins of lookups, 9 and 6 columns wide, and a join without lookups."""
    b = GraphBuilder({"ids": (("batch",), torch.int64), "x": ("batch", 4)})

    def looked_up(name: str, width: int) -> fx.Node:
        return b.call(aten.embedding.default, b.state(name, torch.ones(5, width)), b.inputs["ids"])

    parts = {name: looked_up(name, width) for name, width in (("a", 4), ("b", 5), ("c", 3), ("d", 3))}
    wide = b.call(aten.cat.default, [parts["a"], parts["b"]], 1)
    narrow = b.call(aten.cat.default, [parts["c"], parts["d"]], 1)
    plain = b.call(aten.cat.default, [b.inputs["x"], b.inputs["x"]], 1)
    return b, {**parts, "wide": wide, "narrow": narrow, "plain": plain}


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> list[fx.Node]:
    """The joins in the order in which they were laid out."""
    found: list[fx.Node] = []
    lay: Any = layouts_module.layout_of
    monkeypatch.setattr(
        layouts_module, "layout_of", lambda ctx, node, *args: found.append(node) or lay(ctx, node, *args)
    )
    return found


def context(b: GraphBuilder, nodes: dict[str, fx.Node]) -> tuple[Program, PassContext]:
    program = b.build(nodes["wide"], nodes["narrow"], nodes["plain"])
    return program, PassContext(program, PassSpec("look", "For a test."))


def test_a_layout_is_made_once(laid: list[fx.Node]) -> None:
    b, nodes = joins()
    layouts = Layouts(context(b, nodes)[1])
    first = layouts.widest()
    assert first is not None
    assert (first.root, first.width) == (nodes["wide"], 9)
    lookups = [nodes["wide"], nodes["narrow"]]
    assert [node for node in laid if node in lookups] == lookups
    laid.clear()
    assert layouts.widest() is first
    assert not set(laid) & set(lookups)


def test_a_join_with_a_changed_node_is_laid_out_again(laid: list[fx.Node]) -> None:
    b, nodes = joins()
    layouts = Layouts(context(b, nodes)[1])
    layouts.widest()
    laid.clear()
    nodes["b"].args = (nodes["a"].args[0], nodes["b"].args[1])
    nodes["b"].meta["val"] = nodes["a"].meta["val"]
    again = layouts.widest()
    assert again is not None
    assert nodes["wide"] in laid
    assert nodes["narrow"] not in laid
    assert (again.root, again.width) == (nodes["wide"], 8)


def test_an_erased_join_has_no_layout() -> None:
    b, nodes = joins()
    program, ctx = context(b, nodes)
    layouts = Layouts(ctx)
    layouts.widest()
    nodes["wide"].replace_all_uses_with(b.inputs["x"])
    program.graph.erase_node(nodes["wide"])
    found = layouts.widest()
    assert found is not None
    assert found.root is nodes["narrow"]


def test_refused_joins_are_left() -> None:
    b, nodes = joins()
    layouts = Layouts(context(b, nodes)[1])
    for name in ("wide", "narrow"):
        found = layouts.widest()
        assert found is not None
        assert found.root is nodes[name]
        layouts.refuse(found.root)
    assert layouts.widest() is None


def test_why_joins_of_rows_are_left() -> None:
    """A join without lookups is not told."""
    b = GraphBuilder({"ids": (("batch",), torch.int64), "x": ("batch", 3)})
    table = b.state("a", torch.ones(5, 3))
    rows = b.call(aten.cat.default, [b.call(aten.embedding.default, table, b.inputs["ids"]), b.inputs["x"]], 0)
    plain = b.call(aten.cat.default, [b.inputs["x"], b.inputs["x"]], 0)
    ctx = PassContext(b.build(rows, plain), PassSpec("look", "For a test."))
    layouts = Layouts(ctx)
    for _ in range(2):
        assert layouts.widest() is None
        assert [(miss.node, miss.reason) for miss in ctx.misses] == [(rows.name, "it joins rows, not columns")]
