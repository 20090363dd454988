"""Passes of one's own: by name in texts and on the command line, and in the default pipeline, which keeps its backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels

import recfx
from recfx.cli import main
from recfx.passes import EXACT_PIPELINE
from recfx.pipeline.registry import separate_registry
from recfx.targets import BACKENDS

aten = torch.ops.aten


@recfx.rewrite(aten.relu.default, name="drop-double-relu-of-tests")
def drop_double_relu(node: Any, ctx: recfx.PassContext) -> Any:
    """relu(relu(x)) is relu(x)."""
    inner = node.args[0]
    return inner if inner.target is aten.relu.default else recfx.Miss("its input is not a relu")


class DoubleRelu(TinyCtr):
    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        return super().forward(dense, sparse).relu().relu()


FORMS: list[Any] = [
    [drop_double_relu],
    drop_double_relu,
    "drop-double-relu-of-tests",
    iter([drop_double_relu]),
    {"after:clean": drop_double_relu},
    {"after:fold": ["drop-double-relu-of-tests"]},
]


@pytest.mark.parametrize("extra", FORMS, ids=["list", "pass", "text", "iterator", "place", "place and text"])
def test_extra_passes_keep_the_backends_of_the_default(extra: Any) -> None:
    model = DoubleRelu().eval()
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4), extra_passes=extra, measure=False)
    assert [r.fired for r in fast.report.passes if r.text == "drop-double-relu-of-tests"] == [1]
    default = recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False)
    assert fast.report.backend == default.report.backend
    assert fast.report.notices == default.report.notices


@needs_kernels
def test_a_pipeline_that_keeps_the_model_off_a_backend_says_so() -> None:
    given = {"example_inputs": tiny_inputs(4), "measure": False}
    fast = recfx.optimize(DoubleRelu().eval(), pipeline=["canonicalize", drop_double_relu], **given)
    (notice,) = fast.report.notices
    assert (
        "every pass of the pipeline is exact, so the native backend (reassoc), which may be faster, was left out"
        in notice
    )
    assert "extra_passes=" in notice
    assert notice in str(fast.report)
    for other in ({"target": "native"}, {"target": "eager"}):
        assert recfx.optimize(DoubleRelu().eval(), pipeline=EXACT_PIPELINE, **other, **given).report.notices == ()


def test_missing_kernels_are_said_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(BACKENDS["native"]), "unavailable", lambda self: "the kernels were not built; install g++")
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)
    assert "the native backend is missing, so torch runs its operators: the kernels were not built; install g++" in str(
        fast.report
    )
    pinned = recfx.optimize(TinyCtr(), target="eager", example_inputs=tiny_inputs(4), measure=False)
    assert pinned.report.notices == ()


FILE = """
import torch
import recfx
import {helper}


@recfx.register
class Spoil(recfx.Pass):
    spec = recfx.PassSpec("spoil-of-a-file", "Says it is exact.")

    def run(self, program, ctx):
        for node in ctx.nodes(torch.ops.aten.tanh.default):
            if ctx.gate("spoil", node):
                with ctx.before(node):
                    ctx.replace(node, ctx.call({helper}.WRONG, node.args[0]))
"""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    helper = f"helper_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{helper}.py").write_text("import torch\nWRONG = torch.ops.aten.neg.default\n")
    (tmp_path / "passes.py").write_text(FILE.format(helper=helper))
    (tmp_path / "check.py").write_text(
        "import torch\ndef is_bad(program):\n    return any(n.target is torch.ops.aten.neg.default for n in program.graph.nodes)\n"
    )
    with separate_registry():
        yield tmp_path


def test_bisect_finds_passes_of_a_file_by_name(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recfx.pipeline.pass_files import load_pass_file

    module = load_pass_file(files / "passes.py")
    with pytest.raises(recfx.PassError) as caught:
        recfx.optimize(
            torch.nn.Sequential(torch.nn.Tanh()).eval(),
            target="eager",
            example_inputs=torch.randn(4, 3),
            pipeline="canonicalize,spoil-of-a-file",
            measure=False,
        )
    assert "re-run it alone with" in str(caught.value)
    assert module.Spoil.spec.name in str(caught.value)
    folder = str(caught.value.reproducer)
    assert main(["bisect", folder, "--check", str(files / "check.py")]) == 0
    assert "rewrite 0: spoil-of-a-file / spoil at tanh" in capsys.readouterr().out
    command = ["bisect", folder, "--check", str(files / "check.py"), "--pipeline", "merge-duplicates,spoil-of-a-file"]
    assert main([*command, "--passes", str(files / "passes.py")]) == 0
    assert "spoil-of-a-file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
        ("import recfx\nrecfx.PassSpec('Bad Name', '')\n", "is not the name of a pass"),
    ],
)
def test_a_file_of_passes_that_fails_names_its_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(text)
    assert main(["bisect", str(tmp_path), "--check", str(tmp_path / "bad.py")]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "bad.py" in printed
    assert "next:" in printed
    assert "Traceback" not in printed


def test_an_unknown_name_says_how_passes_get_one() -> None:
    with pytest.raises(recfx.PipelineError, match=r"@recfx\.register"):
        recfx.Pipeline("no-pass-of-that-name")
    with pytest.raises(recfx.PipelineError, match="two passes are called 'canonicalize'"):
        recfx.rewrite(aten.relu.default, name="canonicalize")(lambda node, ctx: None)
