"""Reproducer folders run again, wherever the failing pass is defined and whatever it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import recfx
from recfx.ir import Level, capture
from recfx.pipeline import Pass, Pipeline
from recfx.pipeline.reproducer import read_reproducer, read_resources, write_reproducer
from recfx.testing import GraphBuilder

SOURCE = '''
import dataclasses
import torch
import recfx
from recfx.pipeline import Pass, PassSpec

aten = torch.ops.aten


@recfx.rewrite(aten.tanh.default, name="quite-another-name")
def spoiling_rule(node, ctx):
    """Says it is exact."""
    return ctx.call(aten.neg.default, node.args[0])


class Outer:
    @dataclasses.dataclass(frozen=True)
    class Spoil(Pass):
        spec = PassSpec("spoil", "Says it is exact.")
        limit: float = 0.0
        words: tuple = ()

        def run(self, program, ctx):
            assert self.limit == float("inf") and self.words == ("a", "b")
            for node in ctx.nodes(aten.tanh.default):
                if ctx.gate("spoil", node):
                    with ctx.before(node):
                        ctx.replace(node, ctx.call(aten.neg.default, node.args[0]))


class Needy(Pass):
    spec = PassSpec("needy", "Needs examples.", needs={"examples"})

    def run(self, program, ctx):
        raise ValueError(f"got {sum(ctx.resources['examples']).tolist()}")


def local():
    @recfx.rewrite(aten.tanh.default)
    def hidden(node, ctx):
        """Says it is exact."""
        return ctx.call(aten.neg.default, node.args[0])

    return hidden
'''


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModuleType, Path]]:
    folder = tmp_path_factory.mktemp("passes")
    (folder / "passes_of_a_user.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    try:
        yield import_module("passes_of_a_user"), folder
    finally:
        sys.path.remove(str(folder))


def fails(item: Pass, folder: Path, **options: Any) -> str:
    """What a pass fails with; its reproducer is in `folder`."""
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]))
    with pytest.raises(recfx.PassError) as caught:
        Pipeline([item]).run(program, verify=Level.NUMERIC, reproducer=folder, **options)
    return str(caught.value).splitlines()[0]


def run_again(folder: Path, path: Path) -> str:
    root = Path(recfx.__file__).parents[1]
    environment = {"PYTHONPATH": f"{root}:{path}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(folder / "run.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    return run.stderr


def test_a_rewrite_under_another_name(passes: tuple[ModuleType, Path], tmp_path: Path) -> None:
    module, path = passes
    what = fails(module.spoiling_rule, tmp_path)
    assert "pass quite-another-name (number 1) failed: differs by" in what
    assert what in run_again(tmp_path, path)


def test_a_nested_class_with_options(passes: tuple[ModuleType, Path], tmp_path: Path) -> None:
    module, path = passes
    what = fails(module.Outer.Spoil(limit=float("inf"), words=("a", "b")), tmp_path)
    assert "differs by" in what
    assert what in run_again(tmp_path, path)


def test_what_a_pass_needs_is_saved(passes: tuple[ModuleType, Path], tmp_path: Path) -> None:
    module, path = passes
    examples = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    what = fails(module.Needy(), tmp_path, resources={"examples": examples})
    assert "ValueError: got [4.0, 6.0]" in what
    assert what in run_again(tmp_path, path)


def test_what_cannot_be_saved_is_said(passes: tuple[ModuleType, Path], tmp_path: Path) -> None:
    module, _ = passes
    fails(module.Needy(), tmp_path, resources={"examples": [lambda: None]})
    assert "pickle" in (tmp_path / "resources-not-saved.txt").read_text().lower()
    with pytest.raises(recfx.ArtifactError, match="cannot be pickled"):
        read_resources(tmp_path)


def test_a_pass_inside_a_function_cannot_be_found_and_the_script_says_so(
    passes: tuple[ModuleType, Path], tmp_path: Path
) -> None:
    module, path = passes
    assert "differs by" in fails(module.local(), tmp_path)
    again = run_again(tmp_path, path)
    assert "cannot be imported from passes_of_a_user" in again
    assert "define it at the top of a module" in again


def test_built_in_passes_go_by_their_text(tmp_path: Path) -> None:
    from recfx.passes import HoistRequests
    from recfx.pipeline.reproducer import write_reproducer

    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]))
    write_reproducer(program, [HoistRequests(least_columns=3)], ValueError("why"), tmp_path)
    script = (tmp_path / "run.py").read_text()
    assert "Pipeline(['hoist-requests{least_columns=3}'])" in script
    root = Path(recfx.__file__).parents[1]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, str(tmp_path / "run.py")], env=environment, check=True, capture_output=True)


def test_operators_of_ones_own_are_read_back(tmp_path: Path) -> None:
    """Saved models may call listed operators only; a reproducer is the reader's own."""
    library = torch.library.Library("recfxreproducer", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("recfxreproducer::double", lambda x: torch.empty_like(x), lib=library)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.recfxreproducer.double(x) + 1

    program = capture(Model().eval(), (torch.rand(3, 2),))
    folder = write_reproducer(program, [], RuntimeError("made up"), tmp_path / "reproducer")
    x = torch.rand(3, 2)
    assert torch.equal(read_reproducer(folder).run([x])[0], 2 * x + 1)
