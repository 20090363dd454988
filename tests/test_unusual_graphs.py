"""Unusual graphs: numbers without dimensions, sizes as indices, data-dependent sizes; passes that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import recfx
from recfx.driver.stage_times import StageTimes
from recfx.errors import CaptureError, PassError, VerificationError
from recfx.passes import FUSED, default_pipeline
from recfx.pipeline import Pass, PassContext, PassSpec, Pipeline, registered


class Model(nn.Module):
    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.table, self.compute = nn.Linear(8, 8), nn.Embedding(20, 8), compute

    def forward(self, x, ids):
        return self.compute(self, x, ids)


NUMBERS = {
    "mean": lambda s, x, i: x * (x.mean() + 1),
    "standardised": lambda s, x, i: (x - x.mean()) / (x.std() + 1e-5),
    "element of a bias": lambda s, x, i: x * s.lin.bias[0] + s.lin.weight.sum(),
    "penalty beside the scores": lambda s, x, i: (s.lin(x), s.lin.weight.pow(2).sum() + s.table(i).pow(2).mean()),
    "stacked": lambda s, x, i: torch.stack([x.mean(), x.sum(), x.max()]),
    "looked up": lambda s, x, i: s.lin(x + s.table(i[0, 0])),
    "chosen by": lambda s, x, i: torch.where(x.mean() > 0, x, -x),
}
SIZES = {
    "last row": lambda s, x, i: x * 2 + x[x.shape[0] - 1],
    "middle row": lambda s, x, i: x + x[x.shape[0] // 2],
    "halves": lambda s, x, i: torch.cat([x[: x.shape[0] // 2] * 2, x[x.shape[0] // 2 :]]),
    "select": lambda s, x, i: x.select(0, x.shape[0] - 1).unsqueeze(0) + x,
    "narrow": lambda s, x, i: x.narrow(0, x.shape[0] - 1, 1) + x,
    "reversed": lambda s, x, i: x.index_select(0, torch.arange(x.shape[0] - 1, -1, -1)),
    "over the batch": lambda s, x, i: x / x.shape[0] + x * (1.0 / x.size(0)) + x.shape[0] ** 0.5,
    "eye": lambda s, x, i: (x @ x.T) - torch.eye(x.shape[0]) * 10,
    "full": lambda s, x, i: x + torch.full((x.size(0), 1), float(x.size(0))),
}
DATA = {
    "unique": lambda s, x, i: x + s.table(torch.unique(i)).sum(0),
    "unique and back": lambda s, x, i: (
        s.table(torch.unique(i))[torch.unique(i, return_inverse=True)[1]].sum(1) + s.lin(x)
    ),
    "mask": lambda s, x, i: x + s.table(i[i > 3]).sum(0),
    "masked select": lambda s, x, i: x + torch.masked_select(x, x > -9).mean(),
    "nonzero": lambda s, x, i: s.lin(x[(x > 0).nonzero()[:, 0]]).sum(0) + x,
    "repeats": lambda s, x, i: torch.zeros_like(x).index_add(
        0, torch.repeat_interleave(torch.arange(x.shape[0]), (i > 3).sum(1)), s.table(i[i > 3])
    ),
}
GRAPHS = {**NUMBERS, **SIZES, **DATA}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name: str) -> None:
    model = Model(GRAPHS[name]).eval()
    torch.manual_seed(1)
    fast = recfx.optimize(model, example_inputs=(torch.randn(6, 8), torch.randint(0, 20, (6, 5))), measure=False)
    assert not any("left out" in notice for notice in fast.report.notices)
    assert not any("raised" in miss.reason for record in fast.report.passes for miss in record.misses)
    for rows in (1, 2, 3, 9):
        inputs = torch.randn(rows, 8), torch.randint(0, 20, (rows, 5))
        torch.testing.assert_close(fast(*inputs), model(*inputs), atol=1e-5, rtol=1e-5, equal_nan=True)


class SelfAttention(nn.Module):
    def forward(self, user, item):
        return (F.scaled_dot_product_attention(user, user, user).mean(1) * item).sum(1)


def test_attention_of_one_tensor_over_a_request() -> None:
    model, user = SelfAttention().eval(), torch.randn(1, 5, 8)
    fast = recfx.optimize(model, example_inputs=(user, torch.randn(6, 8)), request_inputs="user", measure=False)
    item = torch.randn(3, 8)
    torch.testing.assert_close(fast(user, item), model(user.expand(3, 5, 8), item))
    assert fast.report.arithmetic is not None


class Raises(Pass):
    """Fails on an unexpected form."""

    spec = PassSpec("raises", "Raises.")

    def run(self, program: Any, ctx: PassContext) -> None:
        raise IndexError("tuple index out of range")


class Spoils(Pass):
    """Leaves a program that does not verify."""

    spec = PassSpec("spoils", "Leaves a program that does not verify.")

    def run(self, program: Any, ctx: PassContext) -> None:
        raise VerificationError("aten.view rejects its arguments")


class RaisesOnPurpose(Pass):
    spec = PassSpec("raises-on-purpose", "Raises a PassError.")

    def run(self, program: Any, ctx: PassContext) -> None:
        raise PassError("the catalogue has no towers")


@pytest.mark.parametrize("item", [Raises, Spoils])
def test_a_failing_pass_is_left_out_of_a_lenient_run_alone(item: type[Pass], tmp_path: Path) -> None:
    program = recfx.capture.capture(Model(NUMBERS["mean"]).eval(), (torch.randn(6, 8), torch.randint(0, 20, (6, 5))))
    result = Pipeline([item, "canonicalize"]).run(program, lenient=True, reproducer=tmp_path)
    failed, canonicalized = result.records
    assert failed.fired == 0
    assert failed.misses[0].rule == "whole pass"
    assert f"pass {item.spec.name} (number 1) failed" in result.program.notices[-1]
    assert str(tmp_path) in result.program.notices[-1]
    assert (tmp_path / "run.py").is_file()
    assert canonicalized.text == "canonicalize"
    with pytest.raises(PassError, match=item.spec.name):
        Pipeline([item]).run(program, reproducer=tmp_path)


def test_a_failing_pass_is_left_out_of_the_default_passes_and_raises_among_chosen_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(self: Pass, program: Any, ctx: PassContext) -> None:
        raise ValueError("an error in fuse-mlp")

    monkeypatch.setattr(registered()["fuse-mlp"], "run", fails)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
    x = torch.randn(6, 4)
    fast = recfx.optimize(model, example_inputs=(x,), measure=False)
    assert any("pass fuse-mlp" in notice and "left out" in notice for notice in fast.report.notices)
    torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(PassError, match="fuse-mlp"):
        recfx.optimize(model, example_inputs=(x,), measure=False, pipeline="canonicalize,fuse-mlp")


def test_what_a_pass_raises_on_purpose_is_raised(tmp_path: Path) -> None:
    program = recfx.capture.capture(Model(NUMBERS["mean"]).eval(), (torch.randn(6, 8), torch.randint(0, 20, (6, 5))))
    with pytest.raises(PassError, match="the catalogue has no towers"):
        Pipeline([RaisesOnPurpose]).run(program, lenient=True, reproducer=tmp_path)


def test_a_rule_that_raises_has_missed() -> None:
    @recfx.rewrite(torch.ops.aten.mul.Tensor)
    def reads_a_third_argument(node: Any, ctx: PassContext) -> Any:
        """Reads a missing argument."""
        ctx.call(torch.ops.aten.relu.default, node.args[0])
        return node.args[2]

    program = recfx.capture.capture(Model(NUMBERS["mean"]).eval(), (torch.randn(6, 8), torch.randint(0, 20, (6, 5))))
    result = Pipeline([reads_a_third_argument]).run(program, lenient=True)
    (miss,) = result.records[0].misses
    assert miss.reason == "the rule raised IndexError: tuple index out of range"
    assert "relu" not in str(result.program)


def test_a_stage_raises_errors_of_recfx_alone() -> None:
    with (
        pytest.raises(CaptureError, match="the stage 'capture' failed unexpectedly: KeyError: 'half'") as caught,
        StageTimes("Model").run("capture", CaptureError),
    ):
        raise KeyError("half")
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.where == "Model"


def test_a_refresh_is_as_lenient_as_the_default_pipeline() -> None:
    model = Model(NUMBERS["mean"]).eval()
    fast = recfx.optimize(model, example_inputs=(torch.randn(6, 8), torch.randint(0, 20, (6, 5))), measure=False)
    assert fast.parts.recipe is not None
    assert fast.parts.recipe.options.pipeline == Pipeline(default_pipeline(requests=False, kernels=FUSED))
    fast.refresh()
