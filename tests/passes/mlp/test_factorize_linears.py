"""factorize-linears: ranks, errors of factors, shared weights, and linears that stay whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function
from torch import Tensor, nn
from torch.nn import functional as F

import recfx
from recfx.capture import capture
from recfx.errors import InputError, PassError, PipelineError
from recfx.ir import Program, verify_meta
from recfx.passes import FactorizeLinears
from recfx.pipeline import Pipeline, PipelineResult
from recfx.testing import rec_graphs, tensors_for
from recfx.zoo import DLRM

aten = torch.ops.aten
X = (torch.randn(6, 32),)


def captured(model: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    return Pipeline("canonicalize").run(capture(model, inputs)).program


def factorize(program: Program, **options: Any) -> PipelineResult:
    data = options.pop("calibration", None)
    item = FactorizeLinears(**{"round_to": 1, "min_weights": 0, **options})
    return Pipeline([item]).run(program, resources={} if data is None else {"calibration": data})


def shapes(program: Program) -> list[tuple[int, ...]]:
    """The weights of linears, in order."""
    linears = program.graph.find_nodes(op="call_function", target=aten.linear.default)
    return [tuple(node.args[1].meta["val"].shape) for node in linears]


def linear(rows: int, columns: int, rank: int | None = None, bias: bool = True) -> nn.Module:
    made = nn.Linear(columns, rows, bias=bias).eval()
    if rank is not None:
        with torch.no_grad():
            made.weight.copy_(torch.randn(rows, rank) @ torch.randn(rank, columns))
    return made


FIRES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[tuple[int, ...]]]] = {
    "half of the multiply-adds": (lambda: linear(32, 32), {}, [(8, 32), (32, 8)]),
    "a quarter": (lambda: linear(32, 32), {"ratio": 0.25}, [(12, 32), (32, 12)]),
    "multiples": (lambda: linear(32, 32), {"ratio": 0.25, "round_to": 8}, [(8, 32), (32, 8)]),
    "at least one multiple": (lambda: linear(64, 32), {"ratio": 0.9, "round_to": 8}, [(8, 32), (64, 8)]),
    "a rank of its own": (lambda: linear(32, 32, rank=3), {"energy": 1 - 1e-9}, [(3, 32), (32, 3)]),
    "without bias": (lambda: linear(40, 32, bias=False), {}, [(8, 32), (40, 8)]),
    "two layers": (
        lambda: nn.Sequential(linear(32, 32), nn.ReLU(), linear(48, 32)).eval(),
        {},
        [(8, 32), (32, 8), (9, 32), (48, 9)],
    ),
    "with calibration": (
        lambda: linear(32, 32),
        {"importance": "activation", "calibration": [X]},
        [(8, 32), (32, 8)],
    ),
    "all but one": (
        lambda: nn.Sequential(linear(32, 32), nn.ReLU(), linear(48, 32)).eval(),
        {"keep": ("0.weight",)},
        [(32, 32), (9, 32), (48, 9)],
    ),
    "only one": (
        lambda: nn.Sequential(linear(32, 32), nn.ReLU(), linear(48, 32)).eval(),
        {"only": ("2.weight",)},
        [(32, 32), (9, 32), (48, 9)],
    ),
}


@pytest.mark.parametrize("case", FIRES)
@pytest.mark.parametrize("batch", [1, 6])
def test_linears_become_two(case: str, batch: int) -> None:
    make, options, wanted = FIRES[case]
    program = captured(make(), X)
    found = factorize(program, **options).program
    verify_meta(found)
    assert shapes(found) == wanted
    assert found.run([X[0][:batch]])[0].shape == program.run([X[0][:batch]])[0].shape
    for name, tensor in found.state().items():
        assert isinstance(tensor, nn.Parameter), f"{name} cannot be trained"


STAYS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "too small": (lambda: linear(32, 32), {"min_weights": 2000}, r"only 1024 weights"),
    "one output": (lambda: linear(1, 32), {}, r"rank 1 multiply no less"),
    "rank that saves nothing": (lambda: linear(32, 32), {"round_to": 16}, r"rank 16 multiply no less"),
    "full rank": (lambda: linear(32, 32), {"energy": 1.0}, r"rank 32 multiply no less"),
    "kept": (lambda: linear(32, 32), {"keep": ("weight",)}, r"keep names it"),
    "a computed weight": (
        lambda: Function(lambda m, x: F.linear(x, x.T @ x)),
        {},
        r"its weight is computed",
    ),
}


@pytest.mark.parametrize("case", STAYS)
def test_linears_that_stay_whole(case: str) -> None:
    make, options, reason = STAYS[case]
    program = captured(make(), X)
    result = factorize(program, **options)
    assert not result.records[0].fired
    assert shapes(result.program) == shapes(program)
    assert any(re.search(reason, miss.reason) for miss in result.records[0].misses)


def test_a_weight_with_another_reader_stays_whole() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(40, 32)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return F.linear(x, self.table.weight) + self.table(ids).sum(1, keepdim=True)

    result = factorize(captured(Tied().eval(), (X[0], torch.arange(6))))
    assert [miss.reason for miss in result.records[0].misses] == ["another operator reads its weight, which would stay"]


@pytest.mark.parametrize("importance", ["weights", "activation"])
def test_tied_weights_are_factorized_once(importance: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    program = captured(Tied().eval(), X)
    found = factorize(program, importance=importance, calibration=[X]).program
    assert shapes(found) == [(8, 32), (32, 8)] * 2
    assert sum(tensor.ndim == 2 for tensor in found.state().values()) == 2


def test_the_exact_rank_gives_the_same_answers() -> None:
    program = captured(linear(48, 32, rank=5), X)
    for options in ({"energy": 1 - 1e-9}, {"energy": 1 - 1e-9, "importance": "activation", "calibration": [X]}):
        found = factorize(program, **options).program
        assert shapes(found)[0][0] <= 6
        torch.testing.assert_close(found.run(list(X))[0], program.run(list(X))[0], rtol=1e-3, atol=1e-3)


@settings(max_examples=10)
@given(data=st.data(), ratio=st.floats(0.05, 0.95))
def test_random_graphs_stay_valid_and_multiply_less(data: st.DataObject, ratio: float) -> None:
    program = data.draw(rec_graphs())
    result = factorize(program, ratio=ratio)
    verify_meta(result.program)
    before, after = (sum(a * b for a, b in shapes(p)) for p in (program, result.program))
    assert after < before or not result.records[0].fired
    leaves = data.draw(tensors_for(program))
    for old, new in zip(program.run(leaves), result.program.run(leaves), strict=True):
        assert old.shape == new.shape


def test_activations_decide_what_is_kept() -> None:
    """Half of the inputs are always zero: factors of half the rank lose nothing that calibration data shows."""
    program = captured(linear(32, 32), X)
    x = torch.randn(200, 32)
    x[:, 16:] = 0
    wanted = program.run([x])[0]
    errors = {}
    for importance in ("weights", "activation"):
        found = factorize(program, ratio=0.2, importance=importance, calibration=[(x,)]).program
        errors[importance] = float((found.run([x])[0] - wanted).square().mean())
    assert errors["activation"] < 0.5 * errors["weights"]


def test_the_compiled_model_holds_the_factors() -> None:
    model = DLRM.small().eval()
    inputs = model.example_inputs(8)
    fast = recfx.optimize(
        model,
        "native",
        example_inputs=inputs,
        extra_passes=FactorizeLinears(ratio=0.1, round_to=1, min_weights=16),
        measure=False,
    )
    assert any(name.endswith("_left") for name in fast.program.state())
    assert fast(*inputs).shape == model(*inputs).shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio=0.0"),
        ({"ratio": 1.0}, r"ratio=1.0"),
        ({"energy": 0.0}, r"energy=0.0"),
        ({"energy": 1.1}, r"energy=1.1"),
        ({"round_to": 0}, r"round_to must be"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FactorizeLinears(**options)


def test_bad_weights_names_and_data_are_refused() -> None:
    odd = linear(32, 32)
    with torch.no_grad():
        odd.weight[0, 0] = torch.nan  # type: ignore[index, operator]
    with pytest.raises(PassError, match=r"NaN or infinities"):
        factorize(captured(odd, X))
    with pytest.raises(PassError, match=r"keep names 'nothing'"):
        factorize(captured(linear(32, 32), X), keep=("nothing",))
    with pytest.raises(PassError, match=r"names 'nothing'"):
        factorize(captured(linear(32, 32), X), only=("nothing",))
    with pytest.raises(PipelineError, match=r"calibration"):
        factorize(captured(linear(32, 32), X), importance="activation")
