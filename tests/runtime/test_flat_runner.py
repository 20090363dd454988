"""The flat runner and serialisation on captured programs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from program_cases import I64, numbers
from torch import nn

from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ir.rebuild import from_json
from recfx.ir.serialize import to_json
from recfx.runtime import flat_function
from recfx.runtime.flat import FAST_CALLS
from recfx.testing import GraphBuilder

aten = torch.ops.aten


SAMPLES: dict[Any, tuple[Any, ...]] = {
    aten.linear.default: (numbers(3, 4), numbers(2, 4), numbers(2)),
    aten.gelu.default: (numbers(3, 4),),
    aten.silu.default: (numbers(3, 4),),
    aten.leaky_relu.default: (numbers(3, 4), 0.2),
    aten.softplus.default: (numbers(3, 4), 2, 10),
    aten.scaled_dot_product_attention.default: (
        numbers(1, 2, 3, 4),
        numbers(1, 2, 3, 4),
        numbers(1, 2, 3, 4),
        None,
        0.0,
        True,
    ),
    aten.expand.default: (numbers(3, 1), [-1, 4]),
    aten.view.default: (numbers(3, 4), [2, 6]),
    aten.contiguous.default: (numbers(3, 4).t(),),
    aten.expand_as.default: (numbers(3, 1), numbers(3, 4)),
    aten.abs.default: (numbers(3),),
    aten.add.Tensor: (numbers(3), 2),
    aten.addmm.default: (numbers(2), numbers(3, 4), numbers(4, 2)),
    aten.amax.default: (numbers(3, 4), [1], True),
    aten.batch_norm.default: (
        numbers(3, 4),
        numbers(4),
        numbers(4),
        numbers(4),
        numbers(4).abs(),
        False,
        0.1,
        1e-3,
        True,
    ),
    aten.bmm.default: (numbers(2, 3, 4), numbers(2, 4, 3)),
    aten.cat.default: ([numbers(3, 4), numbers(3, 2)], 1),
    aten.chunk.default: (numbers(3, 4), 2, 1),
    aten.clamp.default: (numbers(3), -0.1, 0.5),
    aten.cumsum.default: (numbers(3, 4), 1),
    aten.div.Tensor: (numbers(3), numbers(3)),
    aten.embedding.default: (numbers(5, 4), I64, 2, False, False),
    aten.embedding_bag.padding_idx: (numbers(5, 4), I64, torch.tensor([0, 2]), False, 1, False, None, False, None),
    aten.eq.Scalar: (I64, 2),
    aten.eq.Tensor: (I64, I64.flip(0)),
    aten.exp.default: (numbers(3),),
    aten.flatten.using_ints: (numbers(2, 3, 4), 1, 2),
    aten.gather.default: (numbers(3, 4), 1, torch.tensor([[0], [3], [1]])),
    aten.ge.Scalar: (numbers(3), 0),
    aten.gt.Scalar: (numbers(3), 0),
    aten.index_select.default: (numbers(3, 4), 0, I64),
    aten.layer_norm.default: (numbers(3, 4), [4], numbers(4), numbers(4), 1e-3),
    aten.log.default: (numbers(3).abs(),),
    aten.logical_not.default: (I64 > 1,),
    aten.lt.Scalar: (numbers(3), 0),
    aten.masked_fill.Scalar: (numbers(3), I64 > 1, float("-inf")),
    aten.matmul.default: (numbers(3, 4), numbers(4)),
    aten.mean.dim: (numbers(3, 4), [1], True),
    aten.mul.Tensor: (numbers(3), 0.5),
    aten.ne.Scalar: (I64, 2),
    aten.neg.default: (numbers(3),),
    aten.permute.default: (numbers(2, 3, 4), [2, 0, 1]),
    aten.pow.Tensor_Scalar: (numbers(3), 2),
    aten.prelu.default: (numbers(3, 4), numbers(1)),
    aten.relu.default: (numbers(3),),
    aten.reshape.default: (numbers(3, 4), [-1, 6]),
    aten.rsub.Scalar: (numbers(3), 2.0),
    aten.select.int: (numbers(3, 4), 1, 2),
    aten.sigmoid.default: (numbers(3),),
    aten.softmax.int: (numbers(3, 4), 1),
    aten.sqrt.default: (numbers(3).abs(),),
    aten.square.default: (numbers(3),),
    aten.squeeze.dim: (numbers(3, 1), 1),
    aten.stack.default: ([numbers(3), numbers(3)], 1),
    aten.sub.Tensor: (numbers(3), numbers(3).flip(0)),
    aten.sum.dim_IntList: (numbers(3, 4), [0, 1], True),
    aten.tanh.default: (numbers(3),),
    aten.transpose.int: (numbers(2, 3, 4), 0, 2),
    aten.tril_indices.default: (4, 3, -1),
    aten.unbind.int: (numbers(3, 4), 1),
    aten.unsqueeze.default: (numbers(3), 1),
    aten.where.self: (I64 > 1, numbers(3), numbers(3).neg()),
}


@pytest.mark.parametrize("overload", FAST_CALLS, ids=str)
def test_fast_call_is_its_overload(overload: Any) -> None:
    flat = torch.utils._pytree.tree_leaves
    want, got = flat(overload(*SAMPLES[overload])), flat(FAST_CALLS[overload](*SAMPLES[overload]))
    assert len(want) == len(got)
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)
        assert a.dtype is b.dtype
        assert a.stride() == b.stride()


@pytest.mark.parametrize(
    ("overload", "arguments"),
    [
        (aten.select.int, (True, False)),
        (aten.sum.dim_IntList, ([True], 1)),
        (aten.sum.dim_IntList, ((1,), 0)),
        (aten.amax.default, ([True], 1)),
        (aten.softmax.int, (True,)),
        (aten.unsqueeze.default, (True,)),
        (aten.transpose.int, (False, True)),
        (aten.slice.Tensor, (True, False, 2, True)),
        (aten.leaky_relu.default, (True,)),
    ],
    ids=str,
)
def test_integers_and_truth_values_stand_for_each_other_as_in_torch_ops(
    overload: Any, arguments: tuple[Any, ...]
) -> None:
    builder = GraphBuilder({"x": ("batch", 4, 3)})
    program = builder.build(builder.call(overload, builder.inputs["x"], *arguments))
    x = numbers(2, 4, 3)
    (found,) = flat_function(program)(x)
    assert torch.equal(found, overload(x, *arguments))


class Odd(nn.Module):
    """Constants that have no literal, a slice with a step, names that are keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_", torch.arange(4.0))

    def forward(self, lambda_, in_):
        y = lambda_.masked_fill(lambda_ > 0, float("-inf")).clamp(min=float("-inf"))
        return torch.nan_to_num(y[:, ::2], nan=float("nan"), neginf=-1.0) + self.class_[1:3] + in_


@pytest.fixture(scope="module", params=["tiny", "odd", "nested"])
def program(request: pytest.FixtureRequest) -> Program:
    if request.param == "odd":
        return capture(Odd().eval(), (numbers(4, 4), numbers(4, 1)))
    return request.getfixturevalue(request.param)


def test_flat_function_is_the_program(program: Program) -> None:
    got, want = flat_function(program)(*program.example), program.run(program.example)
    assert len(got) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_flat_function_frees_every_intermediate(tiny: Program) -> None:
    source = str(flat_function(tiny).__doc__)
    assert source.count("= None") >= 1
    final = {n.name for n in next(iter(reversed(tiny.graph.nodes))).all_input_nodes}
    freed = {name for line in source.splitlines() if line.endswith("= None") for name in line.strip().split(" = ")}
    calls = {n.name for n in tiny.graph.nodes if n.op == "call_function"}
    assert {f"v_{n}" for n in calls - final} <= freed


def test_round_trip_through_json(program: Program) -> None:
    document, tensors = to_json(program)
    again = from_json(json.loads(json.dumps(document)), tensors, program.example)
    assert same_graph(program, again) is None
    assert same_graph(again, program) is None
    verify_meta(again)
    verify_numeric(program, again, Exactness.EXACT)
    assert again.signature.dims == program.signature.dims


def test_tied_tables_are_stored_once_and_stay_tied(tiny: Program) -> None:
    document, tensors = to_json(tiny)
    again = from_json(json.loads(json.dumps(document)), tensors, tiny.example)
    assert sum(t.shape == (30, 4) for t in tensors.values()) == 1
    assert again.state_bytes() == tiny.state_bytes()


class _Cut(nn.Module):
    """Splits a vector by the sums of another vector, and reads an element of a third vector as a tensor."""

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> Any:
        first, second = (part.item() for part in sizes.unbind())
        torch._check(first + second == x.shape[0])
        a, b = x.split([first, second])
        c, d = sizes.unbind()
        return a * 2, b + 1, c + d


def test_numbers_of_one_vector_are_read_together() -> None:
    """A split whose elements are also used as tensors stays a split."""
    free = {0: torch.export.Dim("n", min=2)}
    program = capture(_Cut().eval(), (numbers(5), torch.tensor([2, 3])), dynamic_shapes=(free, None), check=False)
    run = flat_function(program)
    text = str(run.__doc__)
    assert text.count(".tolist()") == 1
    assert text.count("unbind_int") >= 1
    assert "item_default" not in text
    for sizes in ([2, 3], [0, 5], [5, 0]):
        x = numbers(5)
        found = run(x, torch.tensor(sizes))
        for a, b in zip(found, _Cut()(x, torch.tensor(sizes)), strict=True):
            torch.testing.assert_close(a, b)
