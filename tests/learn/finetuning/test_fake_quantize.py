"""Quantisation-aware training: what is rounded agrees with the passes that quantise, gradients, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import rows, small
from torch import Tensor, nn
from torch.utils.data import DataLoader

import recfx
from recfx.capture import capture
from recfx.errors import InputError
from recfx.formats.per_channel import quantize_per_channel
from recfx.learn import FakeQuantized, TrainSettings, fake_quantize, finetune
from recfx.learn.bounds.symmetric_row import SymmetricRowBounds
from recfx.learn.estimators import StraightThrough
from recfx.learn.finetuning.fake_quantize import rounded_input
from recfx.learn.quantizer import SymmetricQuantizer
from recfx.ops.mlp import quantize_rows
from recfx.pipeline import Pipeline
from recfx.zoo import DLRM

ESTIMATORS = ("ste", "gste", "lsq")


def made(estimator: str = "ste", **options: Any) -> tuple[FakeQuantized, nn.Module, tuple[Tensor, ...]]:
    model, inputs = small(DLRM, bottom=(32, 16), top=(64, 64), dim=8)
    program = Pipeline("canonicalize").run(capture(model, inputs)).program
    return fake_quantize(program, estimator=estimator, **{"min_weights": 64, **options}), model, inputs


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rounded_weights_are_those_that_int8_stores(estimator: str) -> None:
    module, model, _ = made(estimator)
    plain = module.rounded()
    for name, quantizer in module.quantizers.items():
        weight = plain.held(name)
        if isinstance(quantizer, SymmetricQuantizer):
            codes, scale = quantize_per_channel(weight)
            torch.testing.assert_close(codes * scale[:, None], weight.detach(), rtol=1e-6, atol=1e-7)
            first, step = quantize_per_channel(dict(model.named_parameters())[name])
            torch.testing.assert_close(first * step[:, None], weight.detach(), rtol=1e-6, atol=1e-7)


def test_a_learned_share_clips_and_rounding_again_changes_nothing() -> None:
    weight = torch.randn(4, 9)
    bounds = SymmetricRowBounds(4)
    quantizer = SymmetricQuantizer(8, bounds, StraightThrough())
    assert bounds.share is not None
    with torch.no_grad():
        bounds.share.copy_(torch.tensor([[1.0], [0.7], [0.3], [5.0]]))
        rounded = quantizer(weight)
        torch.testing.assert_close(rounded.abs().amax(1), weight.abs().amax(1) * torch.tensor([1.0, 0.7, 0.3, 1.0]))
        codes, scale = quantize_per_channel(rounded)
        torch.testing.assert_close(codes * scale[:, None], rounded, rtol=1e-6, atol=1e-7)
    quantizer(weight.requires_grad_()).square().sum().backward()
    assert bounds.share.grad is not None
    assert bounds.share.grad[:3].abs().min() > 0
    with pytest.raises(InputError, match=r"shares of 4 rows"):
        bounds(torch.randn(3, 9))


def test_inputs_are_rounded_as_int8_layers_round_them() -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    codes, scale = quantize_rows(x.detach().reshape(-1, 5))
    found = rounded_input(x)
    torch.testing.assert_close(found, (codes * scale).float().reshape(x.shape))
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_int8_model_answers_as_the_trained_module(estimator: str, bits: int) -> None:
    module, _, inputs = made(estimator, tables=bits)
    loader = DataLoader(rows(inputs, 64), 32)
    settings = TrainSettings(epochs=2, lr=1e-3, l2=0.0, progress=False)
    tuned = finetune(module, loader, settings=settings).module
    assert isinstance(tuned, FakeQuantized)
    wanted = tuned(*inputs).detach()
    text = f"quantize-tables{{bits={bits}}},quantize-linears{{bits=8, min_weights=64}}"
    exact = tuned.rounded()
    fast = recfx.optimize(exact, "native", example_inputs=inputs, extra_passes={"after:mlp": text}, measure=False)
    away, floats = (fast(*inputs) - wanted).abs().max(), (exact(*inputs) - wanted).abs().max()
    spread = wanted.std()
    assert away < 0.02 * spread + floats


def test_training_moves_the_weights_before_rounding_and_lowers_the_loss() -> None:
    for estimator in ESTIMATORS:
        module, model, inputs = made(estimator, tables=2)
        before = {name: held.detach().clone() for name, held in module.named_parameters()}
        batch = [(*inputs, torch.zeros(len(inputs[0])))]
        settings = TrainSettings(epochs=20, lr=3e-4, l2=0.0, progress=False)
        report = finetune(module, batch, "mse", teacher=model, settings=settings).report
        assert report.losses[-1] < 0.5 * report.losses[0], estimator
        assert all(not torch.equal(held, before[name]) for name, held in module.named_parameters()), estimator
        assert bool(report.deltas) == (estimator == "gste")
        if estimator == "gste":
            assert len(report.deltas) == 19
            assert min(min(values) for _, values in report.deltas) >= 0


def test_an_interrupted_run_continues_with_its_scales(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=3, lr=1e-2, l2=0.0, progress=False, checkpoint_seconds=0.0)
    batches = list(DataLoader(rows(made()[2], 64), 32))
    whole = finetune(made("gste")[0], batches, settings=settings)

    class Stops(list[Any]):
        left = 5

        def __iter__(self) -> Any:
            for batch in super().__iter__():
                Stops.left -= 1
                if not Stops.left:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        finetune(made("gste")[0], Stops(batches), settings=settings, folder=tmp_path)
    resumed = finetune(made("gste")[0], batches, settings=settings, folder=tmp_path)
    assert resumed.report.losses == whole.report.losses
    assert resumed.report.deltas == whole.report.deltas


def test_small_layers_and_shared_tables_stay_as_they_are() -> None:
    module, _, _ = made(min_weights=600)
    assert {name for name in module.quantizers if "embeddings" not in name} == {
        "bottom.2.weight",
        "top.0.weight",
        "top.2.weight",
    } & set(module.quantizers)
    assert "top.4.weight" not in module.quantizers  # one output

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids) @ self.table.weight.T

    with pytest.raises(InputError, match=r"no linear and no table to round"):
        fake_quantize(capture(Tied().eval(), (torch.arange(5),)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"estimator": "guidance"}, r"'guidance' does not fit weights"), ({"tables": 3}, r"tables cannot have 3 bits")],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**options)
