"""The command line, run in-process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.cli import main
from recfx.doctor import examine


def test_doctor_knows_torch_and_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    findings = {f.subject: f for f in examine()}
    assert findings["backend eager"].present
    assert all(f.present or f.hint for f in findings.values())


def test_explain_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False).save(tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "--graph"]) == 0
    printed = capsys.readouterr().out
    assert "recfx: TinyCtr for cpu" in printed
    assert "table  user.weight" in printed


def test_errors_go_to_stderr_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path / "nothing")]) == 1
    captured = capsys.readouterr()
    assert "no saved model" in captured.err
    assert captured.out == ""


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["juggle"])
    assert caught.value.code == 2


def test_bisect_names_the_rewrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = tmp_path / "check.py"
    check.write_text(
        "import torch, recfx\n"
        "from recfx.pipeline import Pass, PassSpec, register\n"
        "aten = torch.ops.aten\n"
        "@register\n"
        "class NegateRelus(Pass):\n"
        "    spec = PassSpec('negate-relus', 'Wrong on purpose.')\n"
        "    def run(self, program, ctx):\n"
        "        for node in ctx.nodes(aten.relu.default):\n"
        "            if ctx.gate('negate', node):\n"
        "                with ctx.before(node):\n"
        "                    new = ctx.call(aten.neg.default, node.args[0])\n"
        "                ctx.replace(node, new)\n"
        "def is_bad(program):\n"
        "    return any(n.target is aten.neg.default for n in program.graph.nodes)\n"
    )

    @recfx.rewrite(torch.ops.aten.relu.default)
    def wrong(node: Any, ctx: Any) -> Any:
        """Wrong on purpose."""
        return ctx.call(torch.ops.aten.neg.default, node.args[0])

    with pytest.raises(recfx.PassError):
        recfx.optimize(
            TinyCtr(), example_inputs=tiny_inputs(4), pipeline=[wrong], verify="numeric", debug=tmp_path / "debug"
        )
    folder = str(tmp_path / "debug" / "reproducer")
    assert main(["bisect", folder, "--pipeline", "negate-relus", "--check", str(check)]) == 0
    assert "negate-relus / negate at relu" in capsys.readouterr().out
    assert main(["bisect", folder, "--pipeline", "negate-relus", "--check", str(tmp_path / "no.py")]) == 1
