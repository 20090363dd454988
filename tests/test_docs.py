"""The statements of the documents are true."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.cli import command_parser
from recfx.kernels.library import missing
from recfx.passes import DEFAULT_PIPELINE, PRECISIONS, STAGES, Stage
from recfx.pipeline import registered
from recfx.pipeline.registry import separate_registry
from recfx.targets import BACKENDS

ROOT = Path(__file__).parents[1]
BUILT_IN = {name: cls for name, cls in registered().items() if cls.__module__.startswith("recfx.passes.")}


def check_fewer_bits(names: dict[str, Any]) -> None:
    assert names["fast"].report.approximation == (names["largest"], names["relative"])


def check_testing_a_pass(names: dict[str, Any]) -> None:
    assert "forgets-the-slope breaks this program" in str(names["message"])
    assert "aten.leaky_relu(" in str(names["message"])


def check_request_inputs(names: dict[str, Any]) -> None:
    model, user, item, history = (names[n] for n in ("model", "user", "item", "history"))
    zeros = torch.zeros(8, dtype=torch.int64)
    want = model(user[zeros], item, history[zeros])
    for name in ("fast", "own"):
        torch.testing.assert_close(names[name](user[:1], item, history[:1]), want, rtol=1e-4, atol=1e-5)
    pooled = names["PaddedHistory"](9, 4)
    values, offsets = torch.tensor([3, 7, 7, 5]), torch.tensor([0, 3])
    bags = torch.nn.functional.embedding_bag(values, pooled.table.weight, offsets, mode="mean")
    torch.testing.assert_close(pooled(names["padded"]), bags)
    index = names["belongs_to"]
    want = model(user[index], item, history[index])
    torch.testing.assert_close(names["scores"], want, rtol=1e-4, atol=1e-5)


def check_constant_inputs(names: dict[str, Any]) -> None:
    fast, model, prices = names["fast"], names["model"], names["prices"]
    user, item = torch.tensor([1, 2]), torch.tensor([10, 20])
    torch.testing.assert_close(fast(user, item), model(user, item, prices[item] * 1.1), rtol=1e-4, atol=1e-5)


def check_graph_encoders(names: dict[str, Any]) -> None:
    assert float(names["loss"].detach()) < 0.69  # less than log 2, the loss of an untrained model
    ((recall,),) = names["printed"][:1]
    assert 0 < recall[20] < recall[50] < 1


def check_retrieval(names: dict[str, Any]) -> None:
    ids, seen = names["ids"], names["seen"]
    assert ids.shape == (8, 100)
    assert not any(bool(torch.isin(row, out).any()) for row, out in zip(ids, seen, strict=True))


def check_budget(names: dict[str, Any]) -> None:
    found = names["fast"].report.budget
    assert found.rows == (500, 500)
    assert names["small"] < 0.6
    assert recfx.load("compressed.recfx").report.budget == found
    text = ",".join(p.text for p in names["fast"].report.passes)
    given = {"example_inputs": names["batch"], "calibration": names["data"].train, "measure": False}
    again = recfx.optimize(names["model"], pipeline=text, **given)
    assert again.report.state_bytes == names["fast"].report.state_bytes


def check_pruning(names: dict[str, Any]) -> None:
    assert names["smaller"]
    assert names["fast"].report.exactness == "approx"
    assert {group[1] for group in names["printed"][1:-1]} == {"CHANNELS", "COLUMNS", "PARTS"}
    assert names["pruned"].state_bytes() < names["program"].state_bytes()
    assert names["scores"].shape == names["model"](*names["inputs"]).shape
    assert names["factors"]
    assert 0 < names["bytes_left"] < 1


def check_finetuning(names: dict[str, Any]) -> None:
    assert names["pruned"].state_bytes() < names["program"].state_bytes()
    assert len(names["tuned"].report.losses) == 1
    served = names["fast"](*names["inputs"])
    torch.testing.assert_close(served, names["module"](*names["inputs"]).detach(), rtol=1e-4, atol=1e-5)
    assert set(names["again"].state()) == set(names["pruned"].state())


def check_operators(names: dict[str, Any]) -> None:
    assert not any(str(node.target).startswith("recfx.") for node in names["plain"].graph.nodes)
    assert Path("model.onnx").exists()


def check_passes(names: dict[str, Any]) -> None:
    assert names["fast"].report.exactness == "approx"
    assert [p.fired for p in names["fast"].report.passes if p.text.startswith("drop-weak-columns")] == [2]
    assert missing() is not None or "the native backend (reassoc), which may be faster, was left out" in str(
        names["exact"].report
    )


def check_bags(names: dict[str, Any]) -> None:
    model, fast = names["model"], names["fast"]
    given = (torch.randn(2, 4), torch.tensor([0, 6]), torch.randint(1000, (9,)))
    torch.testing.assert_close(fast(*given), model(*given), rtol=1e-4, atol=1e-5)


def check_saving(names: dict[str, Any]) -> None:
    given = names["model"].example_inputs(5)
    torch.testing.assert_close(names["fast"](*given), names["model"](*given), rtol=1e-4, atol=1e-5)


def check_targets(names: dict[str, Any]) -> None:
    del BACKENDS["numpy"]
    given = names["inputs"]
    torch.testing.assert_close(names["fast"](*given), names["model"](*given), rtol=1e-4, atol=1e-5)
    assert list(names["own"].placement.values()) == ["numpy", "eager"]
    x = torch.randn(3, 8)
    torch.testing.assert_close(names["own"](x), names["tower"](x), rtol=1e-4, atol=1e-5)
    assert Path("placed.svg").read_text(encoding="utf-8").startswith("<svg")


#: Page -> what its blocks must have made.
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "docs/budget.md": check_budget,
    "docs/constant-inputs.md": check_constant_inputs,
    "docs/finetuning.md": check_finetuning,
    "docs/graphs.md": check_graph_encoders,
    "docs/inputs.md": check_bags,
    "docs/operators.md": check_operators,
    "docs/passes.md": check_passes,
    "docs/pruning.md": check_pruning,
    "docs/quantization.md": check_fewer_bits,
    "docs/requests.md": check_request_inputs,
    "docs/retrieval.md": check_retrieval,
    "docs/saving.md": check_saving,
    "docs/targets.md": check_targets,
    "docs/testing_passes.md": check_testing_a_pass,
}

PAGES = [
    page
    for page in ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
    if "```python" in (ROOT / page).read_text()
]
#: Pages whose blocks train, draw many graphs or export for long, and what others need in addition to torch.
SLOW_PAGES = {"docs/testing_passes.md", "docs/budget.md"}
WITH_KERNELS = {"docs/budget.md", "docs/native.md", "docs/quantization.md", "docs/retrieval.md"}


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, from top to bottom."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run_page(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the blocks of a page one after another in one namespace, as a reader would."""
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, block {number + 1}", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW_PAGES else page for page in PAGES]
)
def test_the_blocks_of_a_page_run_alone(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in WITH_KERNELS and missing() is not None:
        pytest.skip("the kernels were not built")
    if page == "docs/operators.md":
        pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    printed: list[Any] = []
    with separate_registry():
        names = run_page(
            page, {"__name__": "page", "print": lambda *values: printed.append(values), "printed": printed}
        )
    check = CHECKS.get(page)
    if check is not None:
        check(names)


COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )?(?:\S*/)?recfx ([a-z].*?)(?: +#.*)?$", flags=re.MULTILINE)
COMMANDS = [
    (str(page.relative_to(ROOT)), match[1])
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for match in COMMAND.finditer(block)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_commands_of_a_page_are_understood(page: str, command: str) -> None:
    command_parser().parse_args(shlex.split(command))


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
    found = blocks("README.md")
    code = next(block for block in found if "drop_double_relu" in block)

    class DoubleRelu(TinyCtr):
        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            return super().forward(dense, sparse).relu().relu()

    dense, sparse = tiny_inputs(4)
    names: dict[str, object] = {"model": DoubleRelu(), "dense": dense, "sparse": sparse, "print": lambda *args: None}
    exec(code, names)
    fast = names["fast"]
    assert isinstance(fast, recfx.CompiledModel)
    assert [r.fired for r in fast.report.passes if r.text == "drop-double-relu"] == [1]


def test_the_precisions_are_documented() -> None:
    document = (ROOT / "docs" / "quantization.md").read_text()
    for precision, text in PRECISIONS.items():
        assert f'| `"{precision}"` | {f"`{text}`" if text else "nothing"} |' in document


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        assert "://" in target or ((ROOT / document).parent / target).exists(), target
