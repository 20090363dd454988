"""Reproducer folders can be run, for failing passes that are defined anywhere and need any state."""

from __future__ import annotations

import json
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
from recfx.capture import capture
from recfx.ir import Level, same_graph
from recfx.pipeline import Pass, Pipeline
from recfx.pipeline.reproducer import (
    _run_script,
    find_pass,
    read_reproducer,
    read_resources,
    write_reproducer,
)
from recfx.pipeline.value_source import as_code
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
    """The error of a pass; its reproducer is in `folder`."""
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


@pytest.mark.slow
def test_a_nested_class_with_options(passes: tuple[ModuleType, Path], tmp_path: Path) -> None:
    module, path = passes
    what = fails(module.Outer.Spoil(limit=float("inf"), words=("a", "b")), tmp_path)
    assert "differs by" in what
    assert what in run_again(tmp_path, path)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_source_of_a_pass_inside_a_function_goes_into_the_folder(
    passes: tuple[ModuleType, Path], tmp_path: Path
) -> None:
    module, path = passes
    what = fails(module.local(), tmp_path)
    assert "differs by" in what
    assert "def hidden" in (tmp_path / "own_passes.py").read_text()
    assert what in run_again(tmp_path, path)


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
    """Saved models may call only listed operators; a reproducer is trusted, as it is the reader's own."""
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


class Counted(dict[str, int]):
    """A user's class, which only a full pickle can hold."""


def test_a_folder_holds_all_it_takes(tmp_path: Path) -> None:
    b = GraphBuilder({"x": ("batch", 4), "ids": (("batch",), torch.int64)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]), b.inputs["ids"])
    program.example = (program.example[0].T.contiguous().T, *program.example[1:])
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # an earlier reproducer is overwritten
        try:
            raise ValueError("why")
        except ValueError as error:
            written = write_reproducer(
                program, Pipeline("canonicalize,fuse-mlp").passes, error, folder, {"examples": Counted(a=1)}
            )
        assert written == folder
    assert (folder / "program.txt").read_text() == f"{program}\n"
    assert (folder / "pipeline.txt").read_text() == "canonicalize,fuse-mlp\n"
    assert (folder / "error.txt").read_text().endswith("ValueError: why\n")
    assert "Traceback" in (folder / "error.txt").read_text()
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"torch", "python", "machine"}
    assert not list(folder.glob("*not-saved*"))
    assert read_resources(folder) == {"examples": Counted(a=1)}
    assert type(read_resources(folder)["examples"]) is Counted
    read = read_reproducer(folder)
    assert same_graph(read, program) is None
    for one, other in zip(read.example, program.example, strict=True):
        assert torch.equal(one, other)


def test_traffic_is_saved_for_passes_that_need_it_only(tmp_path: Path) -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]))
    held = {"traffic": [1, 2], "calibration": [3]}
    for text, expected in (("fuse-mlp", {"calibration": [3]}), ("share-cold-rows", held)):
        folder = write_reproducer(program, Pipeline(text).passes, ValueError("why"), tmp_path / text, held)
        assert read_resources(folder) == expected


def test_folders_are_made_where_none_is_given() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]))
    one, other = (write_reproducer(program, [], ValueError("why"), None) for _ in range(2))
    assert one != other
    assert one.name.startswith("recfx-reproducer-")
    assert read_resources(one) == {}


def test_a_folder_without_a_program_says_so(tmp_path: Path) -> None:
    with pytest.raises(recfx.ArtifactError, match="this folder holds no program"):
        read_reproducer(tmp_path)
    with pytest.raises(recfx.ArtifactError, match="cannot be pickled"):
        read_resources(tmp_path)


def test_constants_among_the_inputs_are_read_back(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, flag: bool, name: str) -> torch.Tensor:
            return x * 2 if flag else x

    program = capture(Model().eval(), (torch.rand(3, 2), True, "a"))
    read = read_reproducer(write_reproducer(program, [], ValueError("why"), tmp_path / "folder"))
    assert [type(value) for value in read.example] == [type(value) for value in program.example]
    assert read.example[1:] == program.example[1:]


def test_passes_are_found_by_module_and_name(passes: tuple[ModuleType, Path]) -> None:
    module, _ = passes
    name = module.__name__
    assert find_pass(name, "spoiling_rule") is module.spoiling_rule
    assert find_pass(name, "Outer.Spoil", limit=2.0) == module.Outer.Spoil(limit=2.0)
    assert isinstance(find_pass(name, "Needy"), module.Needy)
    for where, what in ((name, "Nothing"), ("no_such_module", "Needy"), (name, "local.<locals>.hidden")):
        with pytest.raises(recfx.ArtifactError, match="cannot be imported"):
            find_pass(where, what)


def test_scripts_name_options_as_code(passes: tuple[ModuleType, Path]) -> None:
    module, _ = passes
    name = repr(module.__name__)
    items = [module.Outer.Spoil(limit=float("-inf"), words=("a", "b")), module.Outer.Spoil(limit=2.5)]
    text = _run_script(items)
    assert f"find_pass({name}, 'Outer.Spoil', limit=float('-inf'), words=('a', 'b'))" in text
    assert f"find_pass({name}, 'Outer.Spoil', limit=2.5, words=())" in text
    assert "import recfx.passes" not in text
    both = _run_script([*Pipeline("canonicalize").passes, module.Needy()])
    assert f"Pipeline(['canonicalize', find_pass({name}, 'Needy')])" in both
    assert "import recfx.passes" in both
    assert as_code(float("nan")) == "float('nan')"
    assert [as_code(value) for value in (1, 1.5, "a", None)] == ["1", "1.5", "'a'", "None"]


def test_a_program_that_cannot_be_saved_leaves_a_note(tmp_path: Path) -> None:
    def own(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.tanh.default, b.inputs["x"]))
    next(n for n in program.graph.nodes if n.op == "call_function").target = own
    write_reproducer(program, [], ValueError("why"), tmp_path)
    assert (tmp_path / "program-not-saved.txt").read_text().strip()
    assert not (tmp_path / "program.json").exists()
