"""Running pipelines: faults that verification finds, and the reproducers that it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pipeline_cases import RELU, TANH, chain, targets

import recfx
from recfx.ir import Level, Program, same_graph
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import (
    Pass,
    PassContext,
    PassSpec,
    Pipeline,
)
from recfx.pipeline.reproducer import read_reproducer
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def test_a_wrong_exact_pass_is_caught_with_a_reproducer_that_runs(tmp_path: Path) -> None:
    (tmp_path / "my_passes.py").write_text(
        "import torch\n"
        "from recfx.pipeline import Pass, PassSpec\n"
        "class Spoil(Pass):\n"
        "    spec = PassSpec('spoil', 'Says it is exact.')\n"
        "    def run(self, program, ctx):\n"
        "        for node in ctx.nodes(torch.ops.aten.tanh.default):\n"
        "            if ctx.gate('spoil', node):\n"
        "                with ctx.before(node):\n"
        "                    new = ctx.call(torch.ops.aten.neg.default, node.args[0])\n"
        "                ctx.replace(node, new)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from my_passes import Spoil  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    program = chain(RELU, TANH)
    with pytest.raises(recfx.PassError, match=r"pass spoil \(number 2\) failed: differs by") as caught:
        Pipeline(["canonicalize", Spoil()]).run(program, verify=Level.NUMERIC, reproducer=tmp_path / "again")
    folder = Path(str(caught.value.reproducer))
    assert same_graph(read_reproducer(folder), program) is None
    assert torch.equal(read_reproducer(folder).example[0], program.example[0])
    root = str(Path(recfx.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, str(folder / "run.py")],
        env={"PYTHONPATH": f"{root}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "pass spoil (number 1) failed: differs by" in run.stderr


@pytest.mark.parametrize("verify", list(Level))
def test_the_default_pipeline_runs_at_every_level(verify: Level) -> None:
    result = Pipeline(DEFAULT_PIPELINE).run(chain(RELU, TANH, aten.alias.default), verify=verify)
    assert targets(result.program) == [RELU, TANH]
    assert "canonical" in result.program.properties


def test_a_pass_that_leaves_a_wrong_shape_on_record_is_caught() -> None:
    class Lies(Pass):
        spec = PassSpec("lies", "Records a wrong shape.")

        def run(self, program: Program, ctx: PassContext) -> None:
            (node,) = ctx.nodes(RELU)
            assert ctx.gate("lie", node)
            node.args = (ctx.program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    with pytest.raises(recfx.PassError, match="recorded as"):
        Pipeline([Lies()]).run(chain(TANH, RELU))


def test_a_pass_that_writes_to_state_in_place_is_caught() -> None:
    class Writes(Pass):
        spec = PassSpec("writes", "Edits a weight where it is.")

        def run(self, program: Program, ctx: PassContext) -> None:
            weight = ctx.tensor(ctx.nodes(aten.linear.default)[0].args[1])
            assert weight is not None
            with torch.no_grad():
                weight.mul_(2)

    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(3, 4))))
    with pytest.raises(recfx.PassError, match="in place"):
        Pipeline([Writes()]).run(program)


def test_what_skips_the_gate_is_verified_all_the_same() -> None:
    class Sneaks(Pass):
        spec = PassSpec("sneaks", "Rewrites without asking, and records a wrong shape.")

        def run(self, program: Program, ctx: PassContext) -> None:
            (node,) = ctx.nodes(RELU)
            node.args = (program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    with pytest.raises(recfx.PassError, match="recorded as"):
        Pipeline([Sneaks()]).run(chain(TANH, RELU))
