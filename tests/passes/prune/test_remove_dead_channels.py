"""remove-dead-channels: channels without effect, or with a constant one, disappear without a change of the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from channel_cases import Graph, grouped
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, program_of, run, small_model
from prune_kit import with_linears_between
from torch import nn
from torch.nn import functional as F

from recfx.ir import Exactness, Program, verify_meta, verify_numeric
from recfx.passes.prune import remove_dead_channels
from recfx.testing import assert_pass_preserves, rec_graphs
from recfx.zoo import MODELS

NAME = "remove-dead-channels"
X = (torch.randn(3, 4),)
IDS = (torch.randint(0, 6, (3, 2)),)


def zeroed(layer: nn.Module, rows: Any = (), columns: Any = (), bias: Any = ()) -> nn.Module:
    """A layer with zeros in some rows and columns of its weight and in its bias."""
    with torch.no_grad():
        layer.weight[list(rows)] = 0  # type: ignore[index, operator]
        layer.weight[:, list(columns)] = 0  # type: ignore[index, operator]
        if len(bias):
            layer.bias[list(bias)] = 0  # type: ignore[index, operator]
    return layer


def mlp(*, rows: Any = (), columns: Any = (), bias: Any = (), bias_after: bool = True, act: Any = None) -> nn.Module:
    """linear 4 -> 6, activation, linear 6 -> 3, with zeros."""
    first = zeroed(nn.Linear(4, 6), rows, bias=bias)
    return nn.Sequential(first, act or nn.ReLU(), zeroed(nn.Linear(6, 3, bias=bias_after), columns=columns)).eval()


def falling() -> nn.Module:
    """A second ReLU of which two channels are at most zero, since their weights and biases are and their inputs are not."""
    middle = nn.Linear(6, 5)
    with torch.no_grad():
        middle.weight[:2] = -middle.weight[:2].abs()
        middle.bias[:2] = torch.tensor([-0.5, 0.0])
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), middle, nn.ReLU(), nn.Linear(5, 3)).eval()


def normed(scale: int = 2) -> nn.Module:
    """A batch norm with a scale of zero, behind an addition that keeps it from being folded."""
    norm = nn.BatchNorm1d(6)
    norm.running_mean.uniform_(-1, 1)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1)
        norm.weight[:scale] = 0
        norm.bias.uniform_(-1, 1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), norm, nn.Tanh(), nn.Linear(6, 3)).eval()


class Part(nn.Module):
    """linear 4 -> 6, of which a part goes to linear 3 -> 2.

    Args:
        take: Takes the part.
    """

    def __init__(self, take: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.take, self.last = nn.Linear(4, 6), take, nn.Linear(3, 2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.take(torch.relu(self.first(x))))


def sizes(program: Program) -> list[tuple[int, ...]]:
    """The shapes of the weights, in order of their operators."""
    return [tuple(t.shape) for t in program.state().values() if t.ndim == 2]


FIRES: dict[str, tuple[Callable[[], nn.Module], Any, list[tuple[int, ...]]]] = {
    "never read": (lambda: mlp(columns=[1, 4]), X, [(4, 4), (3, 4)]),
    "zero": (lambda: mlp(rows=[0], bias=[0]), X, [(5, 4), (3, 5)]),
    "constant after relu": (lambda: mlp(rows=[0, 2]), X, [(4, 4), (3, 4)]),
    "constant without a bias behind": (lambda: mlp(rows=[0, 2], bias_after=False), X, [(4, 4), (3, 4)]),
    "constant after gelu, zero weight": (lambda: mlp(rows=[5], columns=[5], act=nn.GELU()), X, [(5, 4), (3, 5)]),
    "constant after sigmoid": (lambda: mlp(rows=[5], act=nn.Sigmoid()), X, [(5, 4), (3, 5)]),
    "below zero before relu": (falling, X, [(6, 4), (3, 6), (3, 3)]),
    "batch norm with scale zero": (normed, X, [(4, 4), (3, 4)]),
    "behind a slice that leaves them out": (lambda: Part(lambda h: h[:, :3]), X, [(3, 4), (2, 3)]),
    "behind several slices": (lambda: Part(lambda h: h[:, 1:2] + h[:, :3]), X, [(3, 4), (2, 3)]),
    "behind a selection": (lambda: Part(lambda h: h[:, 2].unsqueeze(1).expand(-1, 3)), X, [(1, 4), (2, 3)]),
    "a part of a split that is not used": (lambda: Part(lambda h: h.split(3, 1)[1]), X, [(4, 4), (2, 3)]),
    "a chain of dead layers": (
        lambda: nn.Sequential(
            nn.Linear(4, 6),
            nn.ReLU(),
            zeroed(nn.Linear(6, 5), columns=[0, 1]),
            nn.ReLU(),
            zeroed(nn.Linear(5, 3), columns=[2]),
        ).eval(),
        X,
        [(4, 4), (4, 4), (3, 4)],
    ),
    "all dead keeps one": (lambda: mlp(columns=range(6)), X, [(1, 4), (3, 1)]),
    "concatenation": (
        lambda: Function(
            lambda m, x: m.c(torch.cat([m.a(x).relu(), x, m.b(x).relu()], 1)),
            a=zeroed(nn.Linear(4, 3), rows=[1]),
            b=nn.Linear(4, 3),
            c=zeroed(nn.Linear(10, 2), columns=[8]),
        ),
        X,
        [(2, 4), (2, 4), (2, 8)],
    ),
    "table with a zero column": (
        lambda: Function(
            lambda m, i: m.a(F.embedding(i[:, 0], m.t.weight)),
            t=zeroed(nn.Embedding(6, 5), columns=[2]),
            a=nn.Linear(5, 3),
        ),
        IDS,
        [(6, 4), (3, 4)],
    ),
    "residual of two zeros": (
        lambda: Function(
            lambda m, x: m.c((m.a(x) + m.b(x)).relu()),
            a=zeroed(nn.Linear(4, 6), rows=[3]),
            b=zeroed(nn.Linear(4, 6), rows=[3, 4]),
            c=nn.Linear(6, 2),
        ),
        X,
        [(5, 4), (5, 4), (2, 5)],
    ),
    "product with a zero": (
        lambda: Function(
            lambda m, x: m.c(m.a(x) * m.b(x)),
            a=zeroed(nn.Linear(4, 6), rows=[3], bias=[3]),
            b=nn.Linear(4, 6),
            c=nn.Linear(6, 2),
        ),
        X,
        [(5, 4), (5, 4), (2, 5)],
    ),
    "dot interaction of zero columns": (
        lambda: Function(
            lambda m, i: (F.embedding(i[:, 0], m.s.weight) * F.embedding(i[:, 1], m.t.weight)).sum(1),
            s=nn.Embedding(6, 5),
            t=zeroed(nn.Embedding(6, 5), columns=[0, 2]),
        ),
        IDS,
        [(6, 3), (6, 3)],
    ),
}

#: The removed channels alone give NaN for infinite inputs, as 0 times infinity.
BOUNDED_BEHIND_INFINITIES = ("constant after sigmoid", "all dead keeps one")

LEAVES_ALONE: dict[str, tuple[Callable[[], nn.Module], Any, str | None]] = {
    "nothing dead": (mlp, X, None),
    "one zero weight": (lambda: (lambda m: zero_one(m))(mlp()), X, None),
    "layer norm counts": (
        lambda: Function(
            lambda m, x: m.c(m.n(m.a(x).relu())),
            a=zeroed(nn.Linear(4, 6), rows=[1]),
            n=nn.LayerNorm(6),
            c=zeroed(nn.Linear(6, 2), columns=[1]),
        ),
        X,
        "counts",
    ),
    "mean counts": (
        lambda: Function(
            lambda m, x: m.c(m.a(x)) + m.a(x).mean(1, keepdim=True),
            a=nn.Linear(4, 6),
            c=zeroed(nn.Linear(6, 2), columns=[1]),
        ),
        X,
        "counts",
    ),
    "one reader reads it": (
        lambda: Function(
            lambda m, x: m.c(m.a(x)) + m.d(m.a(x)),
            a=nn.Linear(4, 6),
            c=zeroed(nn.Linear(6, 2), columns=[1]),
            d=nn.Linear(6, 2),
        ),
        X,
        "not constant",
    ),
    "constant in a sum": (
        lambda: Function(
            lambda m, x: m.c(m.a(x)) + m.a(x).sum(1, keepdim=True),
            a=nn.Linear(4, 6),
            c=zeroed(nn.Linear(6, 2), columns=[1]),
        ),
        X,
        "cannot be folded",
    ),
    "slices that take all": (
        lambda: Part(lambda h: torch.stack([h[:, :2].sum(1), h[:, 2:4].sum(1), h[:, 4:].sum(1)], 1)),
        X,
        None,
    ),
    "a slice beside a reader of all": (lambda: Part(lambda h: h[:, :3] + h.sum(1, keepdim=True)), X, None),
    "an output": (lambda: zeroed(nn.Linear(4, 6), rows=[1]).eval(), X, None),
    "a column of the input": (lambda: zeroed(nn.Linear(4, 6), columns=[1]).eval(), X, None),
    "slope below zero": (
        lambda: nn.Sequential(falling()[0], nn.Sigmoid(), falling()[2], nn.LeakyReLU(-0.5), nn.Linear(5, 3)).eval(),
        X,
        None,
    ),
    "tied to a living channel": (
        lambda: Function(
            lambda m, x: m.b((m.a(x) + x).relu()),
            a=zeroed(nn.Linear(4, 4), rows=[1]),
            b=zeroed(nn.Linear(4, 2), columns=[1]),
        ),
        X,
        None,
    ),
}


def zero_one(model: Any) -> nn.Module:
    with torch.no_grad():
        model[2].weight[0, 0] = 0
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    model, inputs, expected = FIRES[name]
    program = program_of(Case(model, inputs))
    result = run(NAME, program)
    assert result.records[0].fired
    assert sizes(result.program) == expected
    if name in BOUNDED_BEHIND_INFINITIES:
        verify_numeric(program, result.program, Exactness.REASSOC, extremes=[])
    else:
        check_fires(NAME, Case(model, inputs, result.records[0].fired), Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    names = ("never read", "constant after relu", "concatenation", "residual of two zeros")
    check_near_misses(NAME, (program_of(Case(*FIRES[name][:2])) for name in names), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    model, inputs, reason = LEAVES_ALONE[name]
    check_does_not_fire(NAME, Case(model, inputs, reason=reason))


def test_weights_with_nan_stay() -> None:
    model = mlp(rows=[0])
    with torch.no_grad():
        model[0].bias[0] = torch.nan  # type: ignore[index, operator, union-attr]
    check_does_not_fire(NAME, Case(lambda: model, X, reason=None))


@settings(max_examples=15)
@given(st.data())
def test_any_graph_with_zeros_keeps_its_results(data: st.DataObject) -> None:
    check_with_zeros(data, with_linears_between(data.draw(rec_graphs(), label="graph")), ("between", "before"))


@settings(max_examples=15)
@given(st.data())
def test_any_convolution_in_groups_with_zeros_keeps_its_results(data: st.DataObject) -> None:
    groups, inputs, outputs = (data.draw(st.integers(1, 3), label=name) for name in ("groups", "inputs", "outputs"))
    check_with_zeros(data, grouped(Graph(), groups * inputs, groups * outputs, groups), ("w",))


def check_with_zeros(data: st.DataObject, program: Program, stems: tuple[str, ...]) -> None:
    """Draws slices of weights with these names that are zero, and compares the results without dead channels."""
    for name, tensor in program.state().items():
        if tensor.is_floating_point() and tensor.ndim > 1 and name.startswith(stems):
            row = data.draw(st.integers(0, tensor.shape[0] - 1), label=name)
            with torch.no_grad():
                (tensor[row] if data.draw(st.booleans()) else tensor[:, row % tensor.shape[1]]).zero_()
    result = run(NAME, program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC, extremes=[])
    with mock.patch.object(remove_dead_channels, "_may_have_dead_channels", return_value=True):
        assert sizes(run(NAME, program).program) == sizes(result.program)  # the quick look overlooks nothing
    assert run(NAME, result.program).records[0].fired == 0


def test_random_graphs() -> None:
    assert_pass_preserves(NAME, max_examples=18)


@pytest.mark.parametrize("name", ["deepfm", "dlrm", "mmoe", "bst"])
def test_models_with_neurons_that_are_off(name: str) -> None:
    """The first three neurons of each layer have negative weights and biases behind a ReLU, as training leaves some."""
    program = small_model(MODELS[name].__name__, 6)[2].clone()
    before = run("canonicalize", program).program
    for parameter, tensor in before.state().items():
        if parameter.endswith(("deep.3.weight", "top.2.weight", "experts.0.2.weight", "feed_forward.2.weight")):
            with torch.no_grad():
                tensor[:, :3] = 0
    result = run(NAME, before)
    assert result.records[0].fired
    verify_numeric(before, result.program, Exactness.REASSOC)
    assert result.program.state_bytes() < before.state_bytes()
