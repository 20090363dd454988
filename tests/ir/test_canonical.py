"""Digests of regions: equal for equal graphs under other names and orders, different after any change that counts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from torch import fx

import recfx.ir.canonical as canonical
from recfx.capture import capture
from recfx.errors import ArtifactError
from recfx.ir import Program
from recfx.ir.canonical import content_digest, structure_digest
from recfx.ir.program import get_state, set_state
from recfx.ir.region import Region, split
from recfx.testing import GraphBuilder, rec_graphs

aten = torch.ops.aten


def renamed_and_reordered(program: Program, seed: int) -> Region:
    """The program as a region with other names, other names of state, and its operators in another order."""
    order = random.Random(seed)
    root, graph = torch.nn.Module(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(program.placeholders()):
        copies[node] = graph.placeholder(f"other_{number}")
    rest = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    names: dict[str, str] = {}
    while rest:
        node = order.choice([n for n in rest if all(source in copies for source in n.all_input_nodes)])
        rest.remove(node)
        copies[node] = graph.node_copy(node, lambda n: copies[n])
        copies[node].name = f"name{order.random()}".replace(".", "_")
        if node.op == "get_attr":
            name = names.setdefault(str(node.target), f"state_{len(names)}")
            set_state(root, name, get_state(program.module, str(node.target)))
            copies[node].target = name
    for node, copy in copies.items():
        copy.meta = dict(node.meta)
    graph.output(tuple(copies[n] for n in next(iter(reversed(program.graph.nodes))).args[0]))  # type: ignore[union-attr, index, misc]
    whole = Region.whole(program)
    return Region(fx.GraphModule(root, graph), whole.batch)


@settings(max_examples=20)
@given(program=rec_graphs(max_steps=10), seed=st.integers(0, 2**16))
def test_names_and_order_do_not_count(program: Program, seed: int) -> None:
    other = renamed_and_reordered(program, seed)
    assert structure_digest(other) == structure_digest(Region.whole(program))
    assert content_digest(other) == content_digest(Region.whole(program))


def test_two_captures_of_a_model_are_equal_and_their_weights_are_not() -> None:
    first, second = (capture(TinyCtr(seed), tiny_inputs(6)) for seed in (0, 1))
    again = capture(TinyCtr(0), tiny_inputs(9))
    assert structure_digest(Region.whole(first)) == structure_digest(Region.whole(second))
    assert content_digest(Region.whole(first)) != content_digest(Region.whole(second))
    assert content_digest(Region.whole(first)) == content_digest(Region.whole(again))


def test_equal_parts_of_different_models_are_equal() -> None:
    def tower(width: int) -> Region:
        b = GraphBuilder({"x": ("batch", 4), "y": ("batch", width)})
        side = b.call(aten.tanh.default, b.inputs["y"])
        first = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.ones(3, 4)))
        last = b.call(aten.relu.default, first)
        program = b.build(last, side)
        names = {first.name, last.name}
        nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        parts = split(program, {n: "a" if n.name in names else "b" for n in nodes})
        return parts.regions[parts.backends.index("a")]

    assert structure_digest(tower(2)) == structure_digest(tower(5))


def build(
    width: int = 4,
    dtype: torch.dtype = torch.float32,
    target: Any = aten.add.Tensor,
    names: tuple[str, str] = ("x", "y"),
    scale: Any = 1,
    twice: bool = False,
    tied: bool = True,
    second: Any = "batch",
) -> Region:
    b = GraphBuilder({name: ((size, width), dtype) for name, size in (("x", "batch"), ("y", second))})
    one = b.call(aten.mul.Tensor, b.inputs["x"], b.state("w", torch.ones(width)))
    two = b.call(aten.mul.Tensor, b.inputs["x"], b.state("w" if tied else "v", torch.ones(width))) if twice else one
    sides = {"x": b.call(target, one, two), "y": b.call(aten.mul.Tensor, b.inputs["y"], scale)}
    return Region.whole(b.build(*(sides[name] for name in names)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda: build(width=5),
        lambda: build(dtype=torch.float64),
        lambda: build(target=aten.sub.Tensor),
        lambda: build(names=("y", "x")),
        lambda: build(names=("x", "x")),
        lambda: build(scale=2),
        lambda: build(scale=1.0),
        lambda: build(scale=float("inf")),
        lambda: build(twice=True),
        lambda: build(twice=True, tied=False),
        lambda: build(second="other"),
        lambda: build(second=7),
    ],
)
def test_a_change_of_the_graph_changes_the_digest(changed: Callable[[], Region]) -> None:
    assert structure_digest(build()) == structure_digest(build())
    assert structure_digest(changed()) != structure_digest(build())


def test_changes_are_told_apart_from_each_other() -> None:
    built = [build(twice=True), build(twice=True, tied=False), build(scale=float("nan")), build(scale=float("inf"))]
    assert len({structure_digest(region) for region in built}) == len(built)


def of_state(tensor: torch.Tensor) -> Region:
    b = GraphBuilder({"x": ("batch", 4)})
    return Region.whole(b.build(b.call(aten.linear.default, b.inputs["x"], b.state("w", tensor))))


def test_the_layout_of_state_counts() -> None:
    assert structure_digest(of_state(torch.ones(4, 4))) != structure_digest(of_state(torch.ones(4, 5)[:, :4]))


@given(size=st.integers(1, 400), at=st.integers(0, 399), chunk=st.sampled_from([64, 100, 1 << 20]))
def test_every_byte_of_the_state_counts(size: int, at: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "_CHUNK", chunk)
        weight = torch.arange(4 * size, dtype=torch.float32).reshape(size, 4)
        changed = weight.clone()
        changed.view(torch.uint8).view(-1)[at % (16 * size)] ^= 1
        before, after = of_state(weight[:1]), of_state(changed[:1])
        same = torch.equal(weight[:1], changed[:1])
        assert (content_digest(before) == content_digest(after)) == same
        whole, other = canonical._tensor_digest(weight), canonical._tensor_digest(changed)
        assert whole != other
        assert structure_digest(before) == structure_digest(after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64, torch.int64])
def test_state_of_any_dtype(dtype: torch.dtype) -> None:
    tensors = [torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype), torch.zeros((), dtype=dtype), torch.zeros(0, 3)]
    assert len({canonical._tensor_digest(t) for t in (tensors[0], tensors[1], tensors[2], tensors[3])}) == 4


def test_sparse_state() -> None:
    dense = torch.eye(4)
    dense[0, 1] = 2
    digests = set()
    for tensor in (dense.to_sparse_coo(), torch.eye(4).to_sparse_coo()):
        b = GraphBuilder({"x": (4, 4)})
        region = Region.whole(b.build(b.call(aten._sparse_mm.default, b.state("a", tensor), b.inputs["x"])))
        digests.add(content_digest(region))
    assert len(digests) == 2


def test_an_argument_without_a_plain_form_is_named() -> None:
    region = build()
    node = next(n for n in region.graph.nodes if n.op == "call_function")
    node.args = (node.args[0], object())  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match="cannot be saved") as caught:
        structure_digest(region)
    assert node.name in str(caught.value)


def test_operators_that_no_output_needs_count() -> None:
    region = build().clone()
    last = next(iter(reversed(region.graph.nodes)))
    with region.graph.inserting_before(last):
        region.graph.call_function(aten.relu.default, (region.placeholders()[0],))
    assert structure_digest(region) != structure_digest(build())
