"""quantize-linears with calibration data: factors of the input, calibrated scales, corrected biases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function
from torch import Tensor, nn

from recfx.capture import capture
from recfx.errors import InputError, PassError, PipelineError
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ops import cin, cross, mlp
from recfx.passes import QuantizeLinears
from recfx.passes.quantize.layer_kinds import KINDS
from recfx.pipeline import Pipeline, PipelineResult
from recfx.testing import GraphBuilder, rec_graphs, tensors_for

FUSE = "canonicalize,fuse-cross,fuse-mlp"


def rows_with_outliers(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Normal numbers; the first columns are large."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    x[:, : max(columns // 8, 1)] *= 300
    return x


def fused(model: nn.Module, columns: int = 16) -> Program:
    return Pipeline(FUSE).run(capture(model.eval(), (rows_with_outliers(4, columns),))).program


def quantized(program: Program, data: Any = None, **options: Any) -> PipelineResult:
    item = QuantizeLinears(**{"min_weights": 1, **options})
    return Pipeline([item]).run(program, resources={} if data is None else {"calibration": data})


def layers_of(program: Program) -> list[Any]:
    return [y for n in program.graph.nodes if n.target in KINDS for y in KINDS[n.target].layers(n.args)]


def error_of(before: Program, after: Program, x: Tensor) -> float:
    (want,), (got,) = before.run([x]), after.run([x])
    return float((got - want).double().square().sum())


MODELS: dict[str, Any] = {
    "a linear": lambda: nn.Linear(16, 12),
    "a chain": lambda: nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 6)),
    "without bias": lambda: nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 6, bias=False)),
    "a norm": lambda: nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 6)),
    "a cross layer": lambda: Function(lambda m, x: x * m.a(x) + x, a=nn.Linear(16, 16)),
    "a low-rank cross layer": lambda: Function(
        lambda m, x: x * m.u(m.v(x)) + x, u=nn.Linear(4, 16), v=nn.Linear(16, 4, bias=False)
    ),
    "tied weights": lambda: Function(lambda m, x: m.a(torch.relu(m.a(x))), a=nn.Linear(16, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_migrated_layers_are_nearer_to_float32(name: str) -> None:
    torch.manual_seed(0)
    program = fused(MODELS[name]())
    data, other = [(rows_with_outliers(64, 16),)], rows_with_outliers(50, 16, seed=1)
    plain = quantized(program)
    found = quantized(program, data, migrate=True)
    verify_meta(found.program)
    verify_numeric(program, found.program, Exactness.APPROX)
    assert found.records[0].fired == plain.records[0].fired
    assert any(layer.factor >= 0 or getattr(layer, "inner_factor", -1) >= 0 for layer in layers_of(found.program))
    gain = 1.0 if name == "tied weights" else 0.5  # one set of factors for the inputs of both layers
    assert error_of(program, found.program, other) < gain * error_of(program, plain.program, other)
    assert found.program.run([other[:1]])[0].shape == program.run([other[:1]])[0].shape


@pytest.mark.parametrize("name", MODELS)
def test_a_second_run_changes_nothing(name: str) -> None:
    program, data = fused(MODELS[name]()), [(rows_with_outliers(32, 16),)]
    options = {"migrate": True, "correct_bias": True, "activations": "mse"}
    once = quantized(program, data, **options).program
    again = quantized(once, data, **options)
    assert again.records[0].fired == 0
    assert same_graph(once, again.program) is None


@pytest.mark.parametrize("name", MODELS)
def test_corrected_biases_remove_the_mean_error(name: str) -> None:
    torch.manual_seed(0)
    program, data = fused(MODELS[name]()), rows_with_outliers(64, 16)
    plain = quantized(program).program
    found = quantized(program, [(data[:40],), (data[40:],)], correct_bias=True).program
    verify_meta(found)
    (want,), (before,), (after,) = (each.run([data]) for each in (program, plain, found))
    mean = float((before - want).mean(0).abs().max())
    if "cross" in name:  # the product is corrected, which x0 multiplies
        assert error_of(program, found, data) <= error_of(program, plain, data) * 1.01
    else:
        assert float((after - want).mean(0).abs().max()) < 1e-4 * mean + 1e-6


def test_a_tied_bias_is_corrected_for_each_layer() -> None:
    program = fused(MODELS["tied weights"]())
    found = quantized(program, [(rows_with_outliers(64, 16),)], correct_bias=True).program
    first, second = layers_of(found)
    assert first.weight == second.weight
    assert first.bias != second.bias


@pytest.mark.parametrize("method", ["min-max", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("name", ["a chain", "a low-rank cross layer"])
def test_calibrated_scales(name: str, method: Any) -> None:
    program = fused(MODELS[name]())
    found = quantized(program, [(torch.randn(64, 16),)], activations=method).program
    verify_meta(found)
    for layer in layers_of(found):
        assert layer.input_scale > 0
        assert getattr(layer, "inner_input_scale", 1) > 0


def test_a_folded_factor_belongs_to_the_layer_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6))
    model[0].weight.data[:2] *= 500
    program, data = fused(model), [(torch.randn(64, 16),)]
    found = quantized(program, data, migrate=True).program
    assert [layer.factor for layer in layers_of(found)] == [-1, -1]
    x = torch.randn(40, 16)
    assert error_of(program, found, x) < 0.8 * error_of(program, quantized(program).program, x)


def test_calibration_data_is_needed_and_read_only_for_layers_that_change() -> None:
    program = fused(nn.Linear(16, 12))
    with pytest.raises((PipelineError, PassError, InputError), match="calibration"):
        quantized(program, migrate=True)
    broken = [(torch.full((3, 16), torch.nan),)]
    with pytest.raises((PassError, InputError), match="NaN"):
        quantized(program, broken, migrate=True)
    assert quantized(program, broken, migrate=True, min_weights=10**6).records[0].fired == 0


@pytest.mark.parametrize("options", [{"migrate": True}, {"correct_bias": True}, {"activations": "mse"}])
def test_options_of_int8_layers(options: Any) -> None:
    with pytest.raises(InputError, match="belong to bits=8"):
        QuantizeLinears(bits=16, **options)
    item = QuantizeLinears(**options)
    assert Pipeline(str(Pipeline([item]))).passes == (item,)


def test_an_unknown_method() -> None:
    with pytest.raises(InputError, match="activations cannot be 'other'"):
        QuantizeLinears(activations="other")  # type: ignore[arg-type]


def test_a_weight_that_a_network_without_factors_reads_as_well_has_none() -> None:
    b = GraphBuilder({"x0": ("batch", 4, 3), "x": ("batch", 16)})
    weight = b.state("w", torch.randn(5, 16))
    ints, numbers = mlp.encode([mlp.Layer(0)])
    outer = b.call(cin.cin, b.inputs["x0"], b.inputs["x0"], [weight], ints, numbers, False)
    program = b.build(outer, b.call(mlp.mlp, b.inputs["x"], [weight], ints, numbers))
    data = [(torch.randn(40, 4, 3), rows_with_outliers(40, 16))]
    found = quantized(program, data, migrate=True, correct_bias=True, activations="min-max").program
    assert all(layer.factor < 0 and layer.input_scale > 0 and layer.bias >= 0 for layer in layers_of(found))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_with_nan_or_infinities_stays(value: float) -> None:
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6))
    model[0].weight.data[1, 2] = value
    result = quantized(fused(model), [(rows_with_outliers(32, 16),)], migrate=True, correct_bias=True)
    assert result.records[0].fired == 1
    assert any("NaN" in miss.reason for miss in result.records[0].misses)


@pytest.mark.parametrize("name", ["all rows are equal", "zeros", "denormals", "one row", "beyond half precision"])
def test_unusual_calibration_data(name: str) -> None:
    """Outputs stay finite, and layers with factors are about as near to float32 as without calibration data."""
    x = {
        "all rows are equal": torch.randn(1, 16).expand(20, 16),
        "zeros": torch.zeros(9, 16),
        "denormals": torch.randn(9, 16) * 1e-40,
        "one row": torch.randn(1, 16),
        "beyond half precision": torch.randn(30, 16) * 1e30,
    }[name]
    program, rows = fused(MODELS["a chain"]()), torch.randn(40, 16)
    assert bool(quantized(program, [(x,)], migrate=True, correct_bias=True).program.run([rows])[0].isfinite().all())
    found = quantized(program, [(x,)], migrate=True).program
    assert error_of(program, found, rows) < 0.01 * float(program.run([rows])[0].square().sum())


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    program = data.draw(rec_graphs())
    fusing = Pipeline("canonicalize,fuse-cross,fuse-cin,fuse-mlp").run(program).program
    leaves = [data.draw(tensors_for(fusing, batch=rows)) for rows in (5, 3)]
    item = QuantizeLinears(
        min_weights=1,
        migrate=data.draw(st.booleans(), label="migrate"),
        correct_bias=data.draw(st.booleans(), label="correct"),
        activations=data.draw(st.sampled_from(["dynamic", "min-max", "percentile", "mse", "entropy"])),
    )
    batches = [tuple(each) for each in leaves]
    found = Pipeline([item]).run(fusing, resources={"calibration": batches}).program
    verify_meta(found)
    for want, got in zip(fusing.run(leaves[0]), found.run(leaves[0]), strict=True):
        assert got.shape == want.shape
        if isinstance(want, Tensor) and bool(want.isfinite().all()):
            assert bool(got.isfinite().all())


def test_kinds_name_every_position_of_a_layer() -> None:
    fields = set(cross.CrossLayer(0, 0, *[0] * 6).positions())
    assert fields == set(KINDS[cross.cross].names)
