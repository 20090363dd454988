"""`export_onnx`: files that ONNX Runtime runs without recfx give what the compiled model gives."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from test_zoo_road import trained
from torch import Tensor, nn

import recfx
from recfx.errors import ArtifactError, InputError, TargetError
from recfx.zoo import MODELS

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "recfx[onnxruntime]"')

BATCHES = (1, 2, 7, 64)


def answers(path: Path, leaves: Sequence[Any]) -> list[Tensor]:
    """The outputs of a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [place.name for place in session.get_inputs()]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    feed = {name: leaf.numpy() for name, leaf in zip(names, tensors, strict=True)}
    return [torch.from_numpy(found) for found in session.run(None, feed)]


def require_same(fast: recfx.CompiledModel, path: Path, args: Any, kwargs: Any = None, near: float = 1e-5) -> None:
    leaves = fast.program.signature.flatten(args, kwargs or {})
    expected = [one for one in fast.program.run(leaves) if isinstance(one, Tensor)]
    for found, wanted in zip(answers(path, leaves), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=near, atol=near)


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
@pytest.mark.parametrize(
    "name", [name if name == "dlrm" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS)]
)
def test_models_of_the_zoo(name: str, precision: str, tmp_path: Path) -> None:
    model = trained(name)
    fast = recfx.optimize(model, example_inputs=model.example_inputs(6), precision=precision, measure=False)
    recfx.export_onnx(fast, tmp_path / "model.onnx")
    for batch in BATCHES:
        near = 1e-5 if precision == "fp32" else 1e-3
        require_same(fast, tmp_path / "model.onnx", model.example_inputs(batch, seed=batch), near=near)


class Named(nn.Module):
    """Nested inputs and named outputs, one of them no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Any]:
        rows = self.table(features["user id"])
        return {"score": (rows * features["x"]).sum(1), "rows": rows, "x": features["x"]}


def test_names_of_inputs_outputs_and_sizes(tmp_path: Path) -> None:
    features = {"user id": torch.randint(0, 9, (6,)), "x": torch.randn(6, 4)}
    fast = recfx.optimize(Named().eval(), example_inputs=(features,), measure=False)
    path = tmp_path / "named.onnx"
    recfx.export_onnx(fast, path)
    session = onnxruntime.InferenceSession(str(path))
    assert [(p.name, p.shape) for p in session.get_inputs()] == [
        ("features['user id']", ["batch"]),
        ("features['x']", ["batch", 4]),
    ]
    assert [(p.name, p.shape[0]) for p in session.get_outputs()] == [
        ("score", "batch"),
        ("rows", "batch"),
        ("x", "batch"),
    ]
    require_same(fast, path, ({"user id": torch.tensor([8, 0]), "x": torch.randn(2, 4)},))


def test_a_process_without_recfx_and_torch_runs_the_file(tmp_path: Path) -> None:
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)
    recfx.export_onnx(fast, tmp_path / "tiny.onnx")
    code = (
        "import sys, numpy, onnxruntime\n"
        "s = onnxruntime.InferenceSession(sys.argv[1])\n"
        "f = {'dense': numpy.ones((3, 5), 'float32'), 'sparse': numpy.ones((3, 3), 'int64')}\n"
        "print(s.run(None, f)[0].tolist())\n"
        "assert not {'torch', 'recfx'} & sys.modules.keys()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny.onnx")], capture_output=True, text=True, check=True
    )
    wanted = fast(torch.ones(3, 5), torch.ones(3, 3, dtype=torch.int64))
    torch.testing.assert_close(torch.tensor(eval(ran.stdout)), wanted)


def test_ids_outside_their_table_are_errors(tmp_path: Path) -> None:
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)
    recfx.export_onnx(fast, tmp_path / "tiny.onnx")
    for bad in (-1, 30):
        dense, sparse = tiny_inputs(4)
        sparse[2, 1] = bad
        with pytest.raises(Exception, match="out of data bounds"):
            answers(tmp_path / "tiny.onnx", [dense, sparse])


def test_many_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recfx.onnx import files

    monkeypatch.setattr(files, "INLINE_BYTES", 100)
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)
    path = tmp_path / "tiny.onnx"
    recfx.export_onnx(fast, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny.onnx", "tiny.onnx.data"]
    assert path.stat().st_size < 16_000
    require_same(fast, path, tiny_inputs(5))


class Unusual(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).real + torch.special.i0(x)[:, :3]


def test_an_operator_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    fast = recfx.optimize(Unusual().eval(), example_inputs=torch.randn(6, 4), measure=False)
    with pytest.raises(TargetError, match=r"fft_rfft.*in "):
        recfx.export_onnx(fast, tmp_path / "unusual.onnx")
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected a CompiledModel, got TinyCtr"):
        recfx.export_onnx(TinyCtr(), tmp_path / "model.onnx")  # type: ignore[arg-type]
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)
    with pytest.raises(ArtifactError, match="cannot be written"):
        recfx.export_onnx(fast, tmp_path / "absent" / "model.onnx")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else found(name, *rest))
    with pytest.raises(TargetError, match=r"pip install"):
        recfx.export_onnx(fast, tmp_path / "model.onnx")
