"""The statements of the documents are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels

import recfx
from recfx.passes import DEFAULT_PIPELINE, PRECISIONS, STAGES, Stage
from recfx.pipeline import registered

ROOT = Path(__file__).parents[1]
BUILT_IN = {name: cls for name, cls in registered().items() if cls.__module__.startswith("recfx.passes.")}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_pass_is_documented_with_its_exactness(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| (\w+) \|", (ROOT / "docs" / "passes.md").read_text(), flags=re.MULTILINE)
    assert row is not None
    assert row[1] == BUILT_IN[name].spec.exactness.value


def test_the_default_pipeline_is_documented() -> None:
    assert f"`{DEFAULT_PIPELINE}`" in (ROOT / "docs" / "passes.md").read_text()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_is_documented_with_its_reason(stage: Stage) -> None:
    names = ", ".join(f"`{name}`" for name in stage.passes.split(","))
    row = next(
        line for line in (ROOT / "docs" / "passes.md").read_text().splitlines() if line.startswith(f"| {stage.name} |")
    )
    assert f"| {names} |" in row
    assert stage.reason in row


def test_every_check_of_the_makefile_is_documented() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    documented = set(re.findall(r"`make ([a-z-]+)", (ROOT / "docs" / "developing.md").read_text()))
    assert documented == set(phony[1].split()) - {"setup", "clean", "demo", "bench", "bench-peers"}


def test_the_pass_in_the_readme_works() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = next(block for block in blocks if "drop_double_relu" in block)

    class DoubleRelu(TinyCtr):
        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            return super().forward(dense, sparse).relu().relu()

    names: dict[str, object] = {"model": DoubleRelu(), "batch": tiny_inputs(4), "print": lambda *args: None}
    exec(code, names)
    fast = names["fast"]
    assert isinstance(fast, recfx.CompiledModel)
    assert [r.fired for r in fast.report.passes if r.text == "drop-double-relu"] == [1]


@needs_kernels
def test_the_example_of_fewer_bits_works() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quantization.md").read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"print": lambda *args: None}
    exec("\n".join(blocks), names)
    fast = names["fast"]
    assert isinstance(fast, recfx.CompiledModel)
    assert fast.report.approximation == (names["largest"], names["relative"])


@pytest.mark.slow
def test_the_examples_of_testing_a_pass_work() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing_passes.md").read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "testing_passes"}
    exec("\n".join(blocks), names)
    assert "forgets-the-slope breaks this program" in str(names["message"])
    assert "aten.leaky_relu(" in str(names["message"])


def test_the_precisions_are_documented() -> None:
    document = (ROOT / "docs" / "quantization.md").read_text()
    for precision, text in PRECISIONS.items():
        assert f'| `"{precision}"` | {f"`{text}`" if text else "nothing"} |' in document


def test_the_examples_of_request_inputs_work() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "requests.md").read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"print": lambda *args: None}
    exec("\n".join(blocks), names)
    model, user, item, history = (names[n] for n in ("model", "user", "item", "history"))
    zeros = torch.zeros(8, dtype=torch.int64)
    want = model(user[zeros], item, history[zeros])  # type: ignore[operator,index]
    for name in ("fast", "own"):
        compiled = names[name]
        assert isinstance(compiled, recfx.CompiledModel)
        torch.testing.assert_close(compiled(user[:1], item, history[:1]), want, rtol=1e-4, atol=1e-5)  # type: ignore[index]
    pooled = names["PaddedHistory"](9, 4)  # type: ignore[operator]
    values, offsets = torch.tensor([3, 7, 7, 5]), torch.tensor([0, 3])
    bags = torch.nn.functional.embedding_bag(values, pooled.table.weight, offsets, mode="mean")
    torch.testing.assert_close(pooled(names["padded"]), bags)
    index = names["belongs_to"]
    want = model(user[index], item, history[index])  # type: ignore[operator,index]
    torch.testing.assert_close(names["scores"], want, rtol=1e-4, atol=1e-5)


def test_the_examples_of_constant_inputs_work() -> None:
    text = (ROOT / "docs" / "constant-inputs.md").read_text()
    names: dict[str, object] = {"torch": torch, "recfx": recfx}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    fast, model, prices = names["fast"], names["model"], names["prices"]
    assert isinstance(fast, recfx.CompiledModel)
    assert isinstance(model, torch.nn.Module)
    assert isinstance(prices, torch.Tensor)
    user, item = torch.tensor([1, 2]), torch.tensor([10, 20])
    torch.testing.assert_close(fast(user, item), model(user, item, prices[item] * 1.1), rtol=1e-4, atol=1e-5)


def test_the_example_of_graph_encoders_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "graphs.md").read_text(), flags=re.DOTALL)
    printed: list[dict[int, float]] = []
    names: dict[str, object] = {"print": printed.append}
    torch.manual_seed(0)
    exec(code, names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    assert float(loss.detach()) < 0.69  # less than log 2, the loss of an untrained model
    assert 0 < printed[0][20] < printed[0][50] < 1


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        assert "://" in target or ((ROOT / document).parent / target).exists(), target


@needs_kernels
def test_the_examples_of_retrieval_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "retrieval.md").read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec("\n".join(blocks), names)
    ids, seen = names["ids"], names["seen"]
    assert isinstance(ids, torch.Tensor)
    assert isinstance(seen, list)
    assert ids.shape == (8, 100)
    assert not any(bool(torch.isin(row, out).any()) for row, out in zip(ids, seen, strict=True))


def test_the_examples_of_operators_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    program = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False).program
    names: dict[str, object] = {"program": program}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "operators.md").read_text(), flags=re.DOTALL):
        exec(block, names)
    plain = names["plain"]
    assert isinstance(plain, recfx.ir.Program)
    assert not any(str(node.target).startswith("recfx.") for node in plain.graph.nodes)
    assert (tmp_path / "model.onnx").exists()


def test_the_examples_of_the_compiled_model_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "compiled.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)), {})
