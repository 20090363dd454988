"""Element-wise functions over all of float32, at every instruction-set level, from one table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from elementary_cases import BINARY, OTHERS, UNARY
from elementwise_cases import Binary, Unary
from elementwise_kit import differences, grid, plainly_right, same_bits, specials, ulps
from native_kit import LEVELS, Partition, needs_kernels, partition, program_of, program_with
from torch.nn import functional

from recfx import kernels
from recfx.ir import Program
from recfx.kernels.codes import Kind, Op
from recfx.kernels.slots import ElementsInt, ElementsOperation
from recfx.ops import mlp
from recfx.runtime.flat import flat_function
from recfx.targets.native.rules.registry import RULES

pytestmark = needs_kernels

_ULPS = 2.0
_COLUMNS = 1021  # the last vector of a row is not whole
_NARROW = (61, 19, 7, 1)

_UNARY = [(target, i) for target, cases in UNARY.items() for i in range(len(cases))]
_BINARY = [(target, i) for target, cases in BINARY.items() for i in range(len(cases))]


def _name(target: Any) -> str:
    return target.name().split("::")[-1] if hasattr(target, "name") else target.__name__


def _named(cases: list[tuple[Any, int]]) -> list[Any]:
    return [pytest.param(target, i, id=f"{_name(target)}-{i}") for target, i in cases]


def _of_widths(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    return lambda *tensors: tuple(function(x) for x in tensors)


@lru_cache
def _inputs() -> list[torch.Tensor]:
    x = grid(_COLUMNS)
    return [x, *(x[:, -n:].contiguous() for n in _NARROW)]


@lru_cache(2)
def _unary_program(target: Any, index: int) -> Program:
    """Captured with a few rows: the comparison of a capture with millions of numbers takes longer than the test."""
    return program_with(target, _of_widths(UNARY[target][index].function), [x[:5] for x in _inputs()])


def _binary_inputs() -> list[torch.Tensor]:
    values = specials()
    return [values.repeat_interleave(len(values)).reshape(-1, 59), values.repeat(len(values)).reshape(-1, 59)]


def _exact(case: Unary, x: torch.Tensor) -> torch.Tensor:
    return (case.exact or case.function)(x.double()).double()


def _lowered(program: Program, level: str) -> Callable[..., Any]:
    made = partition(program, level)
    assert not made.refused, {n.name: reason for n, reason in made.refused.items()}
    return flat_function(made.region)


def _torch_error(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The largest error of torch itself near each number of the grid: among those of its sign and exponent."""
    error = ulps(found, exact)
    whole = error[: 512 << 12].reshape(512, -1)
    nearby = whole.amax(1, keepdim=True).expand_as(whole).flatten()
    return torch.cat([nearby, error[512 << 12 :]])


@pytest.mark.parametrize(("target", "index"), _named(_UNARY))
def test_functions_of_one_tensor(target: Any, index: int) -> None:
    """At most 2 ulp, or torch's own error, for every exponent; torch's value at its special numbers; the same bits in narrow rows."""
    case, inputs = UNARY[target][index], _inputs()
    program = _unary_program(target, index)
    assert target in {n.target for n in program.graph.nodes} or target.overloadpacket is torch.ops.aten._to_copy
    x = inputs[0].flatten()
    expected = case.function(x)
    judged = [expected]  # results that are known to be right where those of torch are not
    for level in LEVELS:
        found, *narrow = _lowered(program, level)(*inputs)
        for columns, part in zip(_NARROW, narrow, strict=True):
            assert same_bits(part, found[:, -columns:].contiguous()), (level, columns)
        if any(same_bits(found.flatten(), right) for right in judged):
            continue
        judged.append(found.flatten())
        exact = _exact(case, x)
        allowed = _torch_error(expected, exact).clamp(min=_ULPS)
        wrong = differences(found.flatten(), expected, exact, x, allowed)
        for number in case.free_at:
            wrong &= x != number
        at = wrong.nonzero().flatten()[:5]
        shown = [(float(x[i]), float(found.flatten()[i]), float(expected[i]), float(exact[i])) for i in at]
        assert not shown, f"{level}: {int(wrong.sum())} wrong, (argument, found, torch, float64): {shown}"


@pytest.mark.parametrize(("target", "index"), _named(_BINARY))
def test_functions_of_two_tensors(target: Any, index: int) -> None:
    """Every special number with every other."""
    case: Binary = BINARY[target][index]
    left, right = _binary_inputs()
    program = program_with(target, case.function, [left, right])
    assert target in {n.target for n in program.graph.nodes} or "_" in _name(target)
    expected, exact = case.function(left, right), case.function(left.double(), right.double()).double()
    for level in LEVELS:
        (found,) = _lowered(program, level)(left, right)
        if case.signed_zeros:
            assert same_bits(found, expected), level
        else:
            assert torch.equal(found.isnan(), exact.isnan())
            assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_every_rule_has_a_row() -> None:
    """A rule for an operator that the table lacks fails here: add a row, or add the operator to the others."""
    known = set(UNARY) | set(BINARY)
    unknown = [t for t in RULES if t not in known and _name(t).split(".")[0] not in OTHERS]
    assert not unknown, f"no row of tests/elementwise_cases.py covers {', '.join(map(str, unknown))}"
    gone = [t for t in known if t not in RULES]
    assert not gone, f"rows of operators without a rule: {', '.join(map(str, gone))}"


def _codes_of(made: Partition) -> Iterator[int]:
    for node in made.region.graph.nodes:
        plan = getattr(node.target, "plan", None)
        for step in plan.steps if plan is not None else ():
            if step.kind == Kind.POINTWISE:
                for number in range(step.ints[ElementsInt.COUNT]):
                    yield step.ints[ElementsInt.PROGRAM + number * len(ElementsOperation) + ElementsOperation.CODE]


def test_every_operation_of_the_interpreter_is_reached() -> None:
    """Every code of csrc/pointwise.inl occurs in the plan of a row of the table."""
    source = (Path(kernels.__file__).parent / "csrc" / "pointwise.inl").read_text()
    written = {Op[name] for name in re.findall(r"\bcase OP_(\w+): return each", source)}
    assert len(written) > 30
    left, right = specials().reshape(-1, 1), specials().flip(0).reshape(-1, 1)
    unary = [case for cases in UNARY.values() for case in cases]
    binary = [case for cases in BINARY.values() for case in cases]
    program = program_of(
        lambda a, b: (*(case.function(a) for case in unary), *(case.function(a, b) for case in binary)), [left, right]
    )
    reached = set(_codes_of(partition(program, LEVELS[0])))
    assert not written - reached, f"operations that no row reaches: {sorted(op.name for op in written - reached)}"


_SLOPE, _GATE_SCALE, _GATE_SHIFT = 0.25, 1.5, -0.125
_LAYERS: dict[str, mlp.Layer] = {
    "none": mlp.Layer(0),
    "relu": mlp.Layer(0, activation="relu"),
    "gelu": mlp.Layer(0, activation="gelu"),
    "gelu-tanh": mlp.Layer(0, activation="gelu-tanh"),
    "silu": mlp.Layer(0, activation="silu"),
    "sigmoid": mlp.Layer(0, activation="sigmoid"),
    "tanh": mlp.Layer(0, activation="tanh"),
    "prelu": mlp.Layer(0, activation="prelu", slope=1),
    "dice": mlp.Layer(0, activation="dice", slope=1, gate_scale=2, gate_shift=3),
    "leaky-relu": mlp.Layer(0, activation="leaky-relu", number=0.01),
}


def _meaning(name: str, x: torch.Tensor) -> torch.Tensor:
    """An activation in float64."""
    targets = torch.ops.aten
    rows = {"gelu": UNARY[targets.gelu.default][0], "gelu-tanh": UNARY[targets.gelu.default][1]}
    rows |= {"silu": UNARY[targets.silu.default][0]}
    if name in rows:
        return _exact(rows[name], x)
    layer = _LAYERS[name]
    vectors = [torch.tensor([v], dtype=torch.float64) for v in (0.0, _SLOPE, _GATE_SCALE, _GATE_SHIFT)]
    if name == "leaky-relu":
        return functional.leaky_relu(x.double(), float(torch.tensor(0.01)))
    return mlp.activate(x.double(), layer, vectors)


@pytest.mark.parametrize("name", [name for name in mlp.ACTIVATIONS if name != "row-dice"])
def test_activations_of_layers(name: str) -> None:
    """The operations after a product, in whole vectors and in the rest: a layer whose weights are ones copies its only column."""
    x = torch.cat([grid(1)[: 512 << 12 : 16], specials()[:56].reshape(-1, 1)]).reshape(-1, 8, 1)
    x = x + 0.0  # the sign of a zero that a product gives is not defined
    columns = 19
    ones = torch.ones(columns, 1)
    state = [ones, *(torch.full((columns,), v) for v in (_SLOPE, _GATE_SCALE, _GATE_SHIFT))]
    ints, numbers = mlp.encode([_LAYERS[name]])

    def layer(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return torch.ops.recfx.mlp(x, list(params), ints, numbers)

    program = program_of(layer, [x], state)
    copied = x.expand(-1, -1, columns).flatten()
    expected, exact = layer(x, *state).flatten(), _meaning(name, copied)
    error = ulps(expected, exact).reshape(-1, columns)
    whole = error[: 512 << 8].reshape(512, -1).amax(1).repeat_interleave(256 * columns)
    allowed = torch.cat([whole, error[512 << 8 :].flatten()]).clamp(min=_ULPS)
    for level in LEVELS:
        (found,) = _lowered(program, level)(x)
        wrong = differences(found.flatten(), expected, exact, copied, allowed).nonzero().flatten()[:5]
        shown = [(float(copied[i]), float(found.flatten()[i]), float(expected[i]), float(exact[i])) for i in wrong]
        assert not shown, (level, shown)
        assert same_bits(found[..., :1].contiguous(), found[..., -1:].contiguous())


@lru_cache(512)
def _torch_error_of_exponent(case: Unary, exponent: int) -> float:
    """The largest error of torch itself among all numbers of a sign and exponent, given as the leading bits of such a number."""
    first = exponent << 23
    x = torch.arange(first, first + (1 << 23), dtype=torch.int32).view(torch.float32)
    return float(ulps(case.function(x), _exact(case, x)).max())


def test_what_is_not_plainly_right_is_judged_further() -> None:
    """A neighbour of the exact number is right; a number at distance two, another sign of zero, and a NaN on one side
    are not."""
    exact = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, math.nan, math.nan], dtype=torch.float64)
    one = torch.tensor(1.0)
    next_, up = torch.nextafter(one, one + 1), torch.nextafter(torch.nextafter(one, one + 1), one + 1)
    found = torch.stack([one, next_, up, torch.tensor(-0.0), torch.tensor(math.nan), one, torch.tensor(math.nan)])
    assert plainly_right(found, exact.float(), exact).tolist() == [True, True, False, False, False, False, True]


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "index"), _named(_UNARY))
def test_functions_of_every_number(target: Any, index: int) -> None:
    """All 2^32 numbers."""
    case, shape = UNARY[target][index], (1 << 9, 1 << 11)  # small enough for a cache
    count = shape[0] * shape[1]
    program = program_of(case.function, [torch.zeros(shape)])
    runs = {level: _lowered(program, level) for level in LEVELS}
    for first in range(-1 << 31, 1 << 31, count):
        x = torch.arange(first, first + count, dtype=torch.int32).view(torch.float32)
        expected, exact = case.function(x), None
        judged = [expected]
        for level, run in runs.items():
            found = run(x.reshape(shape))[0].flatten()
            if any(same_bits(found, right) for right in judged):
                continue
            judged.append(found)
            exact = _exact(case, x) if exact is None else exact
            at = (~plainly_right(found, expected, exact)).nonzero().flatten()
            wrong = at[differences(found[at], expected[at], exact[at], x[at], _ULPS)]
            if len(wrong):
                limit = max(_ULPS, _torch_error_of_exponent(case, first >> 23))
                wrong = wrong[differences(found[wrong], expected[wrong], exact[wrong], x[wrong], limit)]
            for number in case.free_at:
                wrong = wrong[x[wrong] != number]
            shown = [(float(x[i]), float(found[i]), float(expected[i]), float(exact[i])) for i in wrong[:5]]
            assert not shown, f"{level}: (argument, found, torch, float64): {shown}"
