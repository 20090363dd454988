"""prune-channels: amounts, importances, rankings, rounding, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, program_of, run, small_model
from prune_kit import masked_run, with_linears_between
from torch import Tensor, nn
from torch.nn import functional as F

import recfx
from recfx.analysis.channel_groups import channel_groups
from recfx.ir import Exactness, Program, verify_meta
from recfx.ir.numeric import compare_outputs
from recfx.ir.reference_run import Reference
from recfx.passes import PruneChannels
from recfx.passes.prune.baked_sizes import Remaining
from recfx.passes.prune.costs import multiply_adds, state_bytes
from recfx.pipeline import Pipeline, PipelineResult
from recfx.testing import rec_graphs, tensors_for
from recfx.zoo import MODELS

X = (torch.randn(6, 8),)


def tower(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Linears with activations between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1]).eval()


def prune(program: Program, **options: Any) -> PipelineResult:
    data = options.pop("calibration", None)
    resources = {} if data is None else {"calibration": data}
    item = PruneChannels(**{"round_to": 1, **options})
    return Pipeline([item]).run(program, resources=resources)


def widths(program: Program) -> list[int]:
    """The numbers of outputs of linears, in order."""
    return [int(n.meta["val"].shape[-1]) for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]


def cost(make: Any, program: Program) -> float:
    found = channel_groups(program)
    return make(program, found)(Remaining(found, ()))  # type: ignore[no-any-return]


PRUNES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, Any], list[int]]] = {
    "half of each layer": (lambda: tower(8, 32, 16, 1), X, {}, [16, 8, 1]),
    "a quarter": (lambda: tower(8, 32, 16, 1), X, {"ratio": 0.25}, [24, 12, 1]),
    "multiples of eight": (lambda: tower(8, 36, 12, 1), X, {"round_to": 8}, [24, 8, 1]),
    "too narrow for a multiple": (lambda: tower(8, 32, 6, 1), X, {"round_to": 16}, [16, 6, 1]),
    "one stays": (lambda: tower(8, 4, 1), X, {"ratio": 0.999}, [1, 1]),
    "with batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval(),
        X,
        {},
        [8, 2],
    ),
    "with layer norm": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2)).eval(),
        X,
        {},
        [8, 2],
    ),
    "residual blocks": (
        lambda: Function(
            lambda m, x: m.c((y := m.a(x)) + m.b(y).relu()), a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 2)
        ),
        X,
        {},
        [8, 8, 2],
    ),
    "tied weights": (
        lambda: Function(
            lambda m, x: m.c(m.b(m.b(m.a(x)).relu())), a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 2)
        ),
        X,
        {},
        [8, 8, 8, 2],
    ),
    "concatenation": (
        lambda: Function(
            lambda m, x: m.c(torch.cat([m.a(x), x, m.b(x)], 1)),
            a=nn.Linear(8, 16),
            b=nn.Linear(8, 4),
            c=nn.Linear(28, 2),
        ),
        X,
        {},
        [8, 2, 2],
    ),
}


@pytest.mark.parametrize("name", PRUNES)
def test_prunes(name: str) -> None:
    model, inputs, options, expected = PRUNES[name]
    program = program_of(Case(model, inputs))
    result = prune(program, **options)
    assert widths(result.program) == expected
    verify_meta(result.program)
    assert result.program.run([inputs[0][:1]])[0].shape == program.run([inputs[0][:1]])[0].shape


LEAVES_ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "an unknown operator": (
        lambda: Function(lambda m, x: m.b(F.group_norm(m.a(x), 2)), a=nn.Linear(8, 16), b=nn.Linear(16, 2)),
        {},
        "not followed",
    ),
    "narrow layers": (lambda: tower(8, 16, 8, 1), {"round_to": 16}, "cannot become smaller"),
    "a running sum": (
        lambda: Function(lambda m, x: m.b(m.a(x).cumsum(1)), a=nn.Linear(8, 16), b=nn.Linear(16, 2)),
        {},
        "other places",
    ),
    "table columns, unless asked for": (lambda: Tables(), {}, ""),
}


class Tables(nn.Module):
    """The scores of two tables."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(8, 16), nn.Embedding(8, 16)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        ids = x.abs().to(torch.int64).clamp(max=7)
        return (self.user(ids[:, 0]) * self.item(ids[:, 1])).sum(1)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    model, options, reason = LEAVES_ALONE[name]
    (record,) = prune(program_of(Case(model, X)), **options).records
    assert record.fired == 0
    assert reason in " | ".join(miss.reason for miss in record.misses)


def test_columns_of_tables_are_pruned_together_on_request() -> None:
    program = program_of(Case(Tables, X))
    after = prune(program, kinds=("columns",)).program
    assert sorted(tuple(t.shape) for t in after.state().values() if t.ndim == 2) == [(8, 8), (8, 8)]


def test_the_weakest_channels_go() -> None:
    model = tower(8, 6, 1)
    with torch.no_grad():
        model[0].bias.zero_()  # type: ignore[operator, union-attr]
        for channel in (1, 4, 5):
            model[0].weight[channel] *= 0.01  # type: ignore[index, operator]
            model[2].weight[:, channel] *= 0.01  # type: ignore[index, operator]
    for importance in ("l2", "l1", "activation", "taylor"):
        after = prune(
            program_of(Case(lambda: model, X)), importance=importance, calibration=[torch.randn(256, 8)]
        ).program
        (weight,) = (t for t in after.state().values() if tuple(t.shape) == (3, 8))
        assert torch.equal(weight, model[0].weight.detach()[[0, 2, 3]]), importance  # type: ignore[union-attr, index]


def test_importances_from_data_see_what_weights_do_not_show() -> None:
    """A channel with large weights whose ReLU is off on all rows."""
    model = tower(8, 4, 1)
    with torch.no_grad():
        model[0].weight[2] *= 5  # type: ignore[index, operator]
        model[0].bias[2] = -1e3  # type: ignore[index, operator]
    program = program_of(Case(lambda: model, X))
    for importance, gone in (("activation", True), ("taylor", True), ("l2", False)):
        after = prune(program, importance=importance, ratio=0.25, calibration=[X, (torch.randn(256, 8),)]).program
        (weight,) = (t for t in after.state().values() if tuple(t.shape) == (3, 8))
        assert any(torch.equal(row, model[0].weight[2]) for row in weight) is not gone, importance  # type: ignore[index]


def test_global_ranking_takes_channels_where_they_matter_least() -> None:
    model = tower(8, 16, 16, 1)
    with torch.no_grad():
        model[0].weight[:12] *= 1e-3  # type: ignore[index, operator]
        model[2].weight[:, :12] *= 1e-3  # type: ignore[index, operator]
    program = program_of(Case(lambda: model, X))
    assert widths(prune(program, ratio=0.375, ranking="global").program) == [4, 16, 1]
    assert widths(prune(program, ratio=0.375).program) == [10, 10, 1]


@pytest.mark.parametrize(("amount", "make"), [("multiply-adds", multiply_adds), ("bytes", state_bytes)])
@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_amounts_are_reached(amount: Any, make: Any, ranking: Any) -> None:
    program = program_of(Case(lambda: tower(8, 64, 32, 1), X))
    after = prune(program, amount=amount, ratio=0.6, ranking=ranking).program
    assert 0.3 < cost(make, after) / cost(make, program) <= 0.4


def test_multiply_adds_are_those_of_the_products() -> None:
    assert cost(multiply_adds, program_of(Case(lambda: tower(8, 64, 32, 1), X))) == 8 * 64 + 64 * 32 + 32
    assert cost(state_bytes, program_of(Case(lambda: tower(8, 4, 1), X))) == 4 * (8 * 4 + 4 + 4 + 1)


def test_an_amount_that_cannot_be_reached_is_refused() -> None:
    program = program_of(Case(lambda: tower(8, 4, 4), X))
    with pytest.raises(recfx.RecfxError, match="cannot be removed"):
        prune(program, amount="bytes", ratio=0.99)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({"ratio": -0.5}, "ratio=-0.5"),
        ({"ratio": float("nan")}, "ratio=nan"),
        ({"round_to": 0}, "round_to=0"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("neurons",)}, "neurons"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(recfx.InputError, match=says) as caught:
        PruneChannels(**options)
    assert caught.value.hint


def test_options_as_text() -> None:
    text = "prune-channels{ratio=0.25, amount=multiply-adds, ranking=global, round_to=8, kinds=('channels', 'columns')}"
    (item,) = Pipeline(text).passes
    assert item == PruneChannels(0.25, "multiply-adds", ranking="global", round_to=8, kinds=("channels", "columns"))
    assert str(item) == text
    with pytest.raises(recfx.PipelineError, match="amount"):
        Pipeline("prune-channels{amount=layers}")


def test_calibration_data_is_asked_for_and_checked() -> None:
    program = program_of(Case(lambda: tower(8, 4, 1), X))
    with pytest.raises(recfx.PipelineError, match="calibration"):
        prune(program, importance="taylor")
    holes = torch.randn(3, 8)
    holes[1, 2] = torch.nan
    for data, says in (
        ([], "no batch"),
        (5, "iterable"),
        ([(holes,)], "NaN"),
        ([(torch.randn(3, 7),)], "8"),
    ):
        with pytest.raises(recfx.RecfxError, match=says):
            prune(program, importance="activation", calibration=data)
    prune(program, importance="activation", calibration=[{"input": X[0]}, X[0], [X[0]]])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(number: float) -> None:
    model = tower(8, 4, 1)
    with torch.no_grad():
        model[0].weight[0, 0] = number  # type: ignore[index, operator]
    with pytest.raises(recfx.RecfxError, match="NaN or infinities"):
        prune(program_of(Case(lambda: model, X)))


def test_a_pruned_program_is_pruned_further() -> None:
    program = program_of(Case(lambda: tower(8, 64, 1), X))
    once = prune(program).program
    assert widths(prune(once).program) == [16, 1]


def test_a_quantised_program_is_refused() -> None:
    program = program_of(Case(lambda: tower(8, 128, 64, 1), X))
    quantised = Pipeline("canonicalize,fuse-mlp,quantize-linears{bits=8}").run(program).program
    with pytest.raises(recfx.PipelineError, match="linears-quantised"):
        prune(quantised)


def test_means_of_removed_channels_go_into_the_bias() -> None:
    program = program_of(Case(lambda: tower(8, 32, 16, 1, act=nn.Sigmoid), X))
    rows = (torch.randn(256, 8),)
    exact = program.run(rows)[0]
    with_means = prune(program, keep_means=True, calibration=[rows]).program.run(rows)[0]
    without = prune(program).program.run(rows)[0]
    assert (with_means - exact).square().mean() < 0.2 * (without - exact).square().mean()
    assert abs(float((with_means - exact).mean())) < 0.1 * abs(float((without - exact).mean()))


def masked_pruning(program: Program, **options: Any) -> tuple[Program, set[int]]:
    """The pruned program, and the labels that the masked run of the program removes."""
    from recfx.passes.prune.choose_channels import by_layer, choose

    found = channel_groups(program)
    item = PruneChannels(round_to=1, **options)
    context = recfx.PassContext(program, item.spec)
    chosen = choose(found, item._ranked(context, found), by_layer, item.ratio, None, "channels")
    return Pipeline([item]).run(program).program, {channel for own in chosen.values() for channel in own}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_pruned_models_are_masked_models(name: str) -> None:
    program = run("canonicalize", small_model(MODELS[name].__name__, 6)[2]).program
    after, removed = masked_pruning(program, kinds=("channels", "columns", "parts"))
    leaves = list(program.example)
    assert removed
    expected = masked_run(program, channel_groups(program), removed, leaves)
    compare_outputs(expected, after.run(leaves), Exactness.REASSOC, "the example", Reference(after, leaves))
    assert after.state_bytes() < program.state_bytes()


@settings(max_examples=15)
@given(st.data())
def test_any_graph_is_pruned_to_its_masked_form(data: st.DataObject) -> None:
    program = with_linears_between(data.draw(rec_graphs(), label="graph"))
    after, removed = masked_pruning(
        program, ratio=data.draw(st.sampled_from([0.3, 0.5, 0.9])), kinds=("channels", "columns", "parts")
    )
    leaves = data.draw(tensors_for(program), label="inputs")
    expected = masked_run(program, channel_groups(program), removed, leaves)
    compare_outputs(expected, after.run(leaves), Exactness.REASSOC, "drawn inputs", Reference(after, leaves))


def test_it_runs_inside_optimize() -> None:
    model = MODELS["deepfm"].small().eval()  # type: ignore[attr-defined]
    inputs = model.example_inputs(16)
    fast = recfx.optimize(
        model,
        example_inputs=inputs,
        extra_passes={"after:fold": "prune-channels{round_to=1}"},
        measure=False,
    )
    assert fast.report.exactness == "approx"
    assert fast(*inputs).shape == model(*inputs).shape
    assert fast.program.state_bytes() < sum(p.numel() * p.element_size() for p in model.parameters())
