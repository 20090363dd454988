"""`recfx.optimize(..., precision=...)`: whole models in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from native_kit import needs_kernels
from torch import nn

import recfx
from recfx import zoo
from recfx.data import auc
from recfx.data.training import predict, train_ctr
from recfx.demo_tasks import task_for
from recfx.errors import InputError, TargetError
from recfx.passes import (
    CALIBRATED,
    FUSED,
    NATIVE_PIPELINE,
    PRECISIONS,
    QuantizeLinears,
    QuantizeTables,
    default_pipeline,
)
from recfx.pipeline import Pipeline

#: The allowed error of untrained models, as a share of the outputs' standard deviation; about twice the largest error
#: over seeds.
OFF = {"int8": 0.2, "bf16": 0.06}
#: The layers of the zoo's small models are below the size from which they are quantised.
EVERY_LAYER = f"{NATIVE_PIPELINE},quantize-tables,quantize-linears{{min_weights=1}}"


@pytest.fixture(scope="module")
def model() -> zoo.DLRM:
    torch.manual_seed(0)
    return zoo.DLRM.small(bottom=(128, 64), top=(256, 128)).eval()


def optimized(model: nn.Module, inputs: Any, **options: Any) -> recfx.CompiledModel:
    return recfx.optimize(model, example_inputs=inputs, measure=False, **options)


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("target", ["native", "cpu"])
def test_a_model_in_fewer_bits(model: zoo.DLRM, precision: str, target: str) -> None:
    fast = optimized(model, model.example_inputs(64), target=target, precision=precision)
    tables, linears = (r for r in fast.report.passes if r.text.startswith("quantize-"))
    assert tables.fired == model.example_inputs(1)[1].shape[1]
    assert linears.fired >= 2
    before, after = fast.report.state_bytes
    assert after < before * (0.6 if precision == "bf16" else 0.45)
    assert fast.report.exactness == "approx"
    with torch.no_grad():
        spread = float(model(*model.example_inputs(256)).std())
        for batch in (1, 2, 7, 64):
            inputs = model.example_inputs(batch)
            want, got = model(*inputs), fast(*inputs)
            assert got.shape == want.shape
            assert got.dtype is want.dtype
            assert float((got - want).abs().max()) <= OFF[precision] * spread


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_kernels_compute_what_the_references_do(model: zoo.DLRM, precision: str) -> None:
    inputs = model.example_inputs(64)
    native = optimized(model, inputs, target="native", precision=precision)
    plain = optimized(model, inputs, target="eager", pipeline=f"{NATIVE_PIPELINE},{PRECISIONS[precision]}")
    spread = float(plain(*inputs).std())
    for batch in (1, 3, 64):
        rows = model.example_inputs(batch)
        # An activation halfway between two codes may be rounded to either.
        torch.testing.assert_close(native(*rows), plain(*rows), rtol=0, atol=0.02 * spread)


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_report_says_how_far_answers_are_off(model: zoo.DLRM, precision: str) -> None:
    inputs = model.example_inputs(64)
    fast = optimized(model, inputs, target="native", precision=precision)
    assert fast.report.approximation is not None
    worst, relative = fast.report.approximation
    with torch.no_grad():
        want = model(*inputs)
    difference = float((fast(*inputs) - want).abs().max())
    assert worst == pytest.approx(difference, rel=0.05, abs=1e-6)
    assert relative == pytest.approx(worst / float(want.std(correction=0)), rel=1e-3)
    assert 0 < relative <= OFF[precision]
    assert f"differ by at most {worst:.3g}" in str(fast.report)


@needs_kernels
def test_full_precision_reports_no_difference(model: zoo.DLRM) -> None:
    fast = optimized(model, model.example_inputs(8), target="native")
    assert fast.report.approximation is None
    assert "differ by at most" not in str(fast.report)


@needs_kernels
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_model_in_fewer_bits_survives_its_artifact(model: zoo.DLRM, precision: str, tmp_path: Path) -> None:
    inputs = model.example_inputs(16)
    fast = optimized(model, inputs, target="native", precision=precision)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    assert torch.equal(loaded(*inputs), fast(*inputs))
    assert loaded.report.approximation == fast.report.approximation


def fired(model: recfx.CompiledModel) -> list[int]:
    """Rewrites of the two quantising passes."""
    return [r.fired for r in model.report.passes if r.text.startswith("quantize-")]


@needs_kernels
@pytest.mark.parametrize("name", ["DeepFM", "DCNv2", "WideDeep", "XDeepFM", "AutoInt"])
def test_models_of_the_zoo_in_int8(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(zoo, name).small().eval()
    inputs = model.example_inputs(64)
    fast = optimized(model, inputs, target="native", pipeline=EVERY_LAYER)
    assert min(fired(fast)) >= 1
    with torch.no_grad():
        want = model(*inputs)
    assert float((fast(*inputs) - want).abs().max()) <= OFF["int8"] * float(want.std())


@needs_kernels
def test_request_inputs_in_int8() -> None:
    torch.manual_seed(0)
    model = zoo.DIN.small().eval()
    for table in (m for m in model.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(table.weight)  # with the initial tables, items hardly change an untrained model's outputs
    user, item, history = model.example_inputs(64)
    every = torch.zeros(64, dtype=torch.int64)
    pipeline = default_pipeline(requests=True, kernels=FUSED) + EVERY_LAYER.removeprefix(NATIVE_PIPELINE)
    fast = optimized(
        model, (user, item, history), target="native", pipeline=pipeline, request_inputs=("user", "history")
    )
    assert min(fired(fast)) >= 1
    with torch.no_grad():
        want = model(user[every], item, history[every])
    got = fast(user[:1], item, history[:1])
    assert float((got - want).abs().max()) <= OFF["int8"] * float(want.std())


def test_the_short_form_is_a_pipeline() -> None:
    for precision, text in PRECISIONS.items():
        for requests in (False, True):
            passes = Pipeline(default_pipeline(requests=requests, kernels=FUSED, precision=precision)).passes
            added = Pipeline(text).passes if text else ()
            assert passes[len(passes) - len(added) :] == added
    assert Pipeline(PRECISIONS["int8"]).passes == (QuantizeTables(), QuantizeLinears())
    for precision, text in CALIBRATED.items():
        given = default_pipeline(requests=False, kernels=FUSED, precision=precision, calibrated=True)
        assert Pipeline(given) == Pipeline(f"{NATIVE_PIPELINE},{text}")
    assert Pipeline(PRECISIONS["bf16"]).passes == (QuantizeTables(bits=16), QuantizeLinears(bits=16))


class LargeBesideSmall(nn.Module):
    """A layer that reads large numbers beside small embeddings, and a batch of one row that loses its dimension."""

    def __init__(self, *, drops: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 32)
        nn.init.normal_(self.table.weight, std=0.01)
        self.layers = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 1))
        with torch.no_grad():
            self.layers[0].weight[:, :32] *= 100
        self.drops = drops

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        scores = self.layers(torch.cat([self.table(ids), dense], 1))
        return scores.squeeze() if self.drops else scores.squeeze(1)


@needs_kernels
@pytest.mark.parametrize("drops", [False, True])
def test_int8_with_calibration_data_uses_it(drops: bool) -> None:
    model = LargeBesideSmall(drops=drops).eval()
    rng = torch.Generator().manual_seed(1)
    inputs = 8 * torch.rand(256, 8, generator=rng), torch.randint(0, 50, (256,), generator=rng)
    plain = optimized(model, inputs, target="native", precision="int8")
    calibrated = optimized(model, inputs, target="native", precision="int8", calibration=[inputs])
    with torch.no_grad():
        want = model(*inputs)
    errors = [float((fast(*inputs) - want).square().mean()) for fast in (plain, calibrated)]
    assert errors[1] < errors[0] / 4
    one = [tensor[:1] for tensor in inputs]
    torch.testing.assert_close(calibrated(*one), model(*one).detach(), rtol=0, atol=0.05 * float(want.std()))


@pytest.mark.parametrize("pipeline", ["canonicalize", Pipeline("canonicalize"), ["canonicalize"]])
def test_a_pipeline_and_a_precision_contradict_each_other(model: zoo.DLRM, pipeline: Any) -> None:
    with pytest.raises(InputError, match="precision= adds passes to the default pipeline") as caught:
        optimized(model, model.example_inputs(4), pipeline=pipeline, precision="int8")
    assert "quantize-tables{bits=8}" in str(caught.value)


def test_a_pipeline_may_be_given_with_full_precision(model: zoo.DLRM) -> None:
    fast = optimized(model, model.example_inputs(4), pipeline="canonicalize", precision="fp32")
    assert [record.text for record in fast.report.passes] == ["canonicalize"]
    assert fast.report.exactness == "exact"


def test_an_unknown_precision_is_named(model: zoo.DLRM) -> None:
    with pytest.raises(InputError, match="'int4' is unknown"):
        optimized(model, model.example_inputs(4), precision="int4")


def test_a_target_without_kernels_has_one_precision(model: zoo.DLRM) -> None:
    with pytest.raises(TargetError, match="computes in bf16"):
        optimized(model, model.example_inputs(4), target="eager", precision="bf16")


#: How much AUC may change on models trained for a few seconds, measured on 6,000 rows. Over two models, two seeds, generated and real data
#: int8 changed it by at most 0.0006, bf16 by at most 0.00003.
AUC_CHANGE = {"int8": 0.002, "bf16": 0.0002}


def auc_changes(name: str, path: Path | None) -> dict[str, float]:
    """AUC of a trained model, and precision -> the change of AUC."""
    torch.manual_seed(0)
    task = task_for(name, path, rows=60_000, seed=0)
    train_ctr(task.model, task.data, epochs=3, seconds=600, progress=False)
    test = task.data.test
    base = auc(test.label, predict(task.model, test))
    assert base > 0.65, "it has not learnt anything that could be lost"
    changes = {}
    for precision in AUC_CHANGE:
        fast = optimized(task.model, task.inputs(64), target="native", precision=precision)
        assert fired(fast)[0] >= 26
        assert fired(fast)[1] >= 2
        changes[precision] = auc(test.label, predict(fast, test)) - base
    return changes


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("name", ["dlrm", "deepfm"])
def test_auc_on_generated_clicks(name: str) -> None:
    for precision, change in auc_changes(name, None).items():
        assert abs(change) <= AUC_CHANGE[precision], precision


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("name", ["dlrm", "deepfm"])
def test_auc_on_real_criteo(name: str, data_dir: Path) -> None:
    for precision, change in auc_changes(name, data_dir).items():
        assert abs(change) <= AUC_CHANGE[precision], precision
