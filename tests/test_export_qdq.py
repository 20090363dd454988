"""`export_qdq`: one graph of torch, which OpenVINO, ONNX Runtime and inductor lower, and the products that each computes in int8."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pass_cases import Function
from torch import Tensor, nn

import recfx
from recfx.errors import InputError
from recfx.passes import QuantizeLinears
from recfx.passes.quantize.calibrated_layers import calibration_rows
from recfx.passes.quantize.static_inputs import dynamic_layers, with_static_inputs
from recfx.zoo import DCNv2

WIDTH = 32

MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, 24),
    "linear, ReLU, linear": lambda: nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 24)),
    "linear, layer norm": lambda: nn.Sequential(nn.Linear(WIDTH, 24), nn.LayerNorm(24)),
    "cross layer": lambda: Function(lambda m, x: x * m.a(x) + x, a=nn.Linear(WIDTH, WIDTH)),
    "low-rank cross layer": lambda: Function(
        lambda m, x: x * m.u(m.v(x)) + x, u=nn.Linear(8, WIDTH), v=nn.Linear(WIDTH, 8, bias=False)
    ),
}

ROWS = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module, example: Any = None, **options: Any) -> recfx.CompiledModel:
    return recfx.optimize(
        model.eval(),
        "native",
        example_inputs=(ROWS[:4],) if example is None else example,
        extra_passes={"after:mlp": QuantizeLinears(**{"min_weights": 1, **options})},
        calibration=[(ROWS,)] if example is None else [example],
        measure=False,
    )


def made(name: str) -> tuple[recfx.CompiledModel, torch.export.ExportedProgram]:
    torch.manual_seed(0)
    fast = compiled(MODELS[name](), migrate=True)
    return fast, recfx.export_qdq(fast, [(ROWS,)])


def near(found: Tensor, wanted: Tensor) -> None:
    """Within a few steps of the last layer's input: sums in another order may round a number to the other side."""
    assert float((found - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())


def openvino_answer(exported: torch.export.ExportedProgram, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    openvino = pytest.importorskip("openvino", reason='pip install "recfx[openvino]"')
    model = openvino.Core().compile_model(
        openvino.convert_model(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    nodes = [node.get_rt_info() for node in model.get_runtime_model().get_ordered_ops()]
    products = [info for info in nodes if info["layerType"].astype(str) in ("FullyConnected", "MatMul")]
    whole = [info for info in products if info["runtimePrecision"].astype(str) in ("i8", "u8")]
    return torch.from_numpy(model([x.numpy()])[0]), (len(whole), len(products))


def onnxruntime_answer(
    exported: torch.export.ExportedProgram, x: Tensor, folder: Path
) -> tuple[Tensor, tuple[int, int]]:
    runtime = pytest.importorskip("onnxruntime", reason='pip install "recfx[onnxruntime]"')
    onnx = pytest.importorskip("onnx")
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("pip install onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(exported, dynamo=True, verbose=False)
    assert program is not None
    program.save(folder / "model.onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    whole = [
        kind for kind in kinds if kind in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
    ]
    floats = [kind for kind in kinds if kind in ("Gemm", "MatMul", "FusedGemm", "FusedMatMul")]
    answer = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return torch.from_numpy(answer), (len(whole), len(whole) + len(floats))


def documented(name: str) -> list[tuple[int, int]]:
    """The row of a model in the table of docs/quantization.md: (int8, all) products in OpenVINO and in ONNX Runtime."""
    text = (Path(__file__).parents[1] / "docs/quantization.md").read_text()
    (cells,) = re.findall(rf"^\| {re.escape(name)} \| (\d) of (\d) \| (\d) of (\d) \|$", text, re.MULTILINE)
    first, all_of_first, second, all_of_second = map(int, cells)
    return [(first, all_of_first), (second, all_of_second)]


def expected(fast: recfx.CompiledModel, x: Tensor) -> Tensor:
    """The answer of the program with the scales that the export calibrates."""
    found: Tensor = with_static_inputs(fast.program, calibration_rows(fast.program, [(ROWS,)]), "mse").run([x])[0]
    return found


@pytest.mark.parametrize("batch", [2, 17])
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_program_computes(name: str, batch: int) -> None:
    fast, exported = made(name)
    x = ROWS[:batch]
    near(exported.module()(x)[0], expected(fast, x))
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert all(target.startswith(("aten.", "quantized_decomposed.", "<built-in")) for target in targets), targets
    assert "quantized_decomposed.quantize_per_tensor.default" in targets
    assert "quantized_decomposed.dequantize_per_channel.default" in targets


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if i else ()) for i, n in enumerate(MODELS)])
def test_openvino(name: str) -> None:
    fast, exported = made(name)
    answer, products = openvino_answer(exported, ROWS[:16])
    near(answer, expected(fast, ROWS[:16]))
    assert products == documented(name)[0]


@pytest.mark.parametrize(
    "name", [name if name == "linear" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_onnxruntime(name: str, tmp_path: Path) -> None:
    fast, exported = made(name)
    answer, products = onnxruntime_answer(exported, ROWS[:16], tmp_path)
    near(answer, expected(fast, ROWS[:16]))
    assert products == documented(name)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_inductor(name: str) -> None:
    fast, exported = made(name)
    with torch.no_grad():
        near(torch.compile(exported.module())(ROWS[:16])[0], expected(fast, ROWS[:16]))


def test_a_model_with_tables_in_eight_bits() -> None:
    model = DCNv2.small().eval()
    example = model.example_inputs(8)
    fast = recfx.optimize(model, "native", example_inputs=example, precision="int8", measure=False)
    exported = recfx.export_qdq(fast, [model.example_inputs(64, seed=1)])
    torch.testing.assert_close(exported.module()(*example)[0], fast(*example), rtol=0.05, atol=0.05)


def test_layers_with_calibrated_scales_need_no_data() -> None:
    torch.manual_seed(0)
    fast = compiled(MODELS["linear, ReLU, linear"](), activations="mse")
    near(recfx.export_qdq(fast).module()(ROWS[:8])[0], fast(ROWS[:8]))
    assert not dynamic_layers(fast.program)


def test_models_without_int8_layers_are_exported_as_they_are() -> None:
    model = MODELS["linear"]().eval()
    fast = recfx.optimize(model, "native", example_inputs=(ROWS[:4],), measure=False)
    torch.testing.assert_close(recfx.export_qdq(fast).module()(ROWS[:8])[0], model(ROWS[:8]).detach())


def test_refused() -> None:
    fast = compiled(MODELS["linear"]())
    with pytest.raises(InputError, match="no calibrated scale") as caught:
        recfx.export_qdq(fast)
    assert "calibration=" in str(caught.value)
    with pytest.raises(InputError, match="zero or not finite"):
        recfx.export_qdq(fast, [(torch.zeros(5, WIDTH),)])
    with pytest.raises(InputError, match="NaN"):
        recfx.export_qdq(fast, [(torch.full((5, WIDTH), torch.nan),)])
    with pytest.raises(InputError, match="no batch"):
        recfx.export_qdq(fast, [])
    with pytest.raises(InputError, match="CompiledModel"):
        recfx.export_qdq(nn.Linear(2, 2))  # type: ignore[arg-type]
