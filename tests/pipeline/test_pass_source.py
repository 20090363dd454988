"""Passes of scripts, notebooks and functions: their source goes into the folder, and the message says whether it runs."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import chain

import recfx
from recfx.ir import Level
from recfx.pipeline import Pass, Pipeline, registered
from recfx.pipeline.reproducer import read_pipeline

aten = torch.ops.aten
ROOT = Path(recfx.__file__).parents[1]

SCRIPT = """
import sys
from dataclasses import dataclass

import torch
import recfx

aten = torch.ops.aten
SCALE = 2.0
OPERATORS = [aten.tanh.default]


def doubled(x):
    return helper(x) * SCALE


def helper(x):
    return x


class Base(recfx.Pass):
    def wanted(self, ctx):
        return ctx.nodes(*OPERATORS)


@dataclass(frozen=True)
class Spoil(Base):
    spec = recfx.PassSpec("spoil-in-script", "Says it is exact.")
    factor: float = SCALE

    def run(self, program, ctx):
        for node in self.wanted(ctx):
            if ctx.gate("spoil", node):
                with ctx.before(node):
                    ctx.replace(node, ctx.call(aten.mul.Tensor, node.args[0], doubled(self.factor)))


print("the script runs")
model = torch.nn.Sequential(torch.nn.Tanh()).eval()
try:
    recfx.optimize(model, example_inputs=torch.randn(4, 3), pipeline=[Spoil(factor=3.0)], measure=False, target="eager")
except recfx.PassError as error:
    print(error)
    print("FOLDER", error.reproducer)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_reproducer_of_a_script_runs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    first = python(str(script))
    assert "pass spoil-in-script{factor=3.0} (number 1) changes the results" in first.stdout, first.stderr
    folder = Path(first.stdout.rpartition("FOLDER ")[2].strip())
    assert f"re-run it alone with: python {folder / 'run.py'}" in first.stdout
    script.unlink()
    again = python(str(folder / "run.py"))
    assert again.returncode != 0
    assert "pass spoil-in-script{factor=3.0} (number 1) failed: differs by" in again.stderr
    assert "the script runs" not in again.stdout


def failure(item: Pass) -> recfx.PassError:
    with pytest.raises(recfx.PassError) as caught:
        Pipeline([item]).run(chain(aten.tanh.default), verify=Level.NUMERIC)
    return caught.value


def runs_alone(error: recfx.PassError) -> bool:
    """Whether the message says so; the folder is held to it."""
    assert error.hint is not None
    assert error.reproducer is not None
    says = error.hint.startswith("re-run it alone")
    if says:
        (item,) = read_pipeline(Path(error.reproducer))
        assert item.spec.name in error.what
        assert failure(item).what == error.what
    return says


class Notebook:
    """Cells that run one after another in one namespace, as IPython runs them."""

    def __init__(self) -> None:
        self.space: dict[str, Any] = {"__name__": "__main__", "In": [""]}

    def cell(self, text: str) -> None:
        name = f"<ipython-input-{id(self)}-{len(self.space['In'])}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        self.space["In"].append(text)
        exec(compile(text, name, "exec"), self.space)


def test_a_pass_of_a_notebook_whose_names_come_from_other_cells() -> None:
    notebook = Notebook()
    notebook.cell("import torch, recfx\nimport numpy as np\naten = torch.ops.aten\nlimits = {'low': np.float32(1.0)}\n")
    notebook.cell("def negative(ctx, x):\n    return ctx.call(aten.neg.default, x) if limits['low'] else x\n")
    notebook.cell(
        "@recfx.rewrite(aten.tanh.default)\ndef in_a_cell(node, ctx):\n    '''Says it is exact.'''\n"
        "    return negative(ctx, node.args[0])\n"
    )
    assert runs_alone(failure(notebook.space["in_a_cell"]))


def test_a_pass_of_a_notebook_with_a_class() -> None:
    notebook = Notebook()
    notebook.cell("import torch, recfx\nfrom dataclasses import dataclass as data\n")
    notebook.cell(
        "@data(frozen=True)\nclass InACell(recfx.Pass):\n    spec = recfx.PassSpec('in-a-cell', 'Raises.')\n    least: int = 3\n"
        "    def run(self, program, ctx):\n        raise ValueError(self.least)\n"
    )
    error = failure(notebook.space["InACell"](least=4))
    assert runs_alone(error)
    assert "ValueError: 4" in error.what


def test_a_pass_of_a_function_with_what_it_closes_over() -> None:
    for sign, names in ((aten.neg.default, ["a"]), (aten.abs.default, ["b", "c"])):

        @recfx.rewrite(aten.tanh.default)
        def closes_over(node: Any, ctx: recfx.PassContext) -> Any:
            """Says it is exact."""
            return ctx.call(sign, node.args[0]) if names else None  # noqa: B023 - it runs at once

        error = failure(closes_over)
        assert runs_alone(error)
        source = (Path(str(error.reproducer)) / "own_passes.py").read_text()
        assert f"torch.ops.{sign}" in source
        assert repr(names) in source


def test_a_rewrite_made_without_a_decorator() -> None:
    def plain(node: Any, ctx: recfx.PassContext) -> Any:
        """Says it is exact."""
        return ctx.call(aten.neg.default, node.args[0])

    assert runs_alone(failure(recfx.rewrite(aten.tanh.default, avoids={"linears-fused"})(plain)))
    assert runs_alone(failure(recfx.rewrite(torch.ops.aten.tanh.default, name="named-without-decorator")(plain)))


def test_a_named_rewrite_is_registered_once() -> None:
    @recfx.rewrite(aten.tanh.default, name="registered-in-a-function")
    def some(node: Any, ctx: recfx.PassContext) -> Any:
        """Says it is exact."""
        return ctx.call(aten.neg.default, node.args[0])

    before = registered()
    assert runs_alone(failure(some))
    assert registered() == before


def test_what_cannot_be_written_is_said() -> None:
    secret = object()

    @recfx.rewrite(aten.tanh.default)
    def reads_an_object(node: Any, ctx: recfx.PassContext) -> Any:
        """Says it is exact."""
        return ctx.call(aten.neg.default, node.args[0]) if secret else None

    error = failure(reads_an_object)
    assert not runs_alone(error)
    assert "does not run alone" in str(error.hint)
    assert (
        "reads secret, a object that has no source"
        in (Path(str(error.reproducer)) / "source-not-saved.txt").read_text()
    )


def test_a_pass_that_fails_once_only_is_not_said_to_fail_again() -> None:
    calls: list[int] = []

    class Once(recfx.Pass):
        spec = recfx.PassSpec("once", "Fails at its first run.")

        def run(self, program: recfx.Program, ctx: recfx.PassContext) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("first")

    error = failure(Once())
    assert error.hint is not None
    assert (
        error.hint.endswith("which does not run alone: the passes do not fail on the saved program")
        or "calls" in error.hint
    )
