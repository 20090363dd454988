"""Allowed imports, read from the source: an allow-list for every room, and no two files that import each other.

Every way to import counts: at module level, inside a function, under `if TYPE_CHECKING:`, relative, and `import_module` with a literal
name. A room without a line in ALLOWED fails. Also tested: `import recfx` stays quick, and `import recfx.retrieval` loads no target.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "recfx"

#: The public interface `recfx` itself, as the target of an import.
FACE = "__init__"

#: Room -> the parts of recfx that it may import: rooms, or a part of a room (`targets.native`).
ALLOWED: dict[str, set[str]] = {
    "bootstrap": set(),
    "command_line": {"errors"},
    "errors": set(),
    "fewer_collections": set(),
    "hutchinson": {"errors"},
    "progress": set(),
    "version": set(),
    "formats": {"errors", "progress"},
    "kernels": {"errors", "formats"},
    "ir": {"errors", "formats"},
    "analysis": {"errors", "ir"},
    "ops": {"errors", "formats", "ir", "kernels"},
    "runtime": {"errors", "ir"},
    "capture": {"errors", "ir", "ops"},
    "pipeline": {"errors", "formats", "ir"},
    "cost": {"bootstrap", "errors", "formats", "ir", "kernels", "ops"},
    "onnx": {"errors", "formats", "ir", "ops"},
    "passes": {"analysis", "errors", "formats", "ir", "ops", "pipeline"},
    "targets": {"cost", "errors", "formats", "ir", "kernels", "onnx", "ops", "progress", "runtime", "version"},
    "placement": {"cost", "errors", "ir", "targets"},
    "zoo": {"data", "errors"},
    "data": {"bootstrap", "errors", "progress", "zoo"},
    "learn": {
        "hutchinson",
        *("data", "errors", "formats", "ir", "kernels", "ops", "passes", "pipeline", "progress", "retrieval", "zoo"),
    },
    "retrieval": {"errors", "formats", "kernels", "progress", "version"},
    "serve": {"command_line", "compiled", "errors", "formats", "ir", "retrieval", "version"},
    "driver": {
        "kernels",
        *("analysis", "capture", "cost", "errors", "formats", "ir", "ops", "passes", "pipeline", "placement"),
        *("fewer_collections", "progress", "runtime", "targets", "version"),
    },
    "compiled": {"driver", "errors", "ir"},
    "budget": {
        *(
            "analysis",
            "bootstrap",
            "capture",
            "compiled",
            "cost",
            "data",
            "driver",
            "errors",
            "formats",
            "hutchinson",
            "ir",
            "passes",
            "pipeline",
        ),
        *("progress", "targets"),
    },
    "optimizer": {"budget", "capture", "compiled", "driver", "errors", "fewer_collections", "passes"},
    "pareto_front": {"budget", "capture", "compiled", "driver", "errors", "passes"},
    "compress": {"budget", "data", "errors", "model_files", "optimizer", "pareto_front", "preconditions"},
    "compress_command": {"command_line"},
    "export": {"compiled", "errors", "ir", "onnx", "ops", "passes"},
    "demo_tasks": {"data", "errors", "zoo"},
    "preconditions": {"driver"},
    "demo": {"budget", "compiled", "cost", "data", "demo_tasks", "ir", "optimizer", "preconditions"},
    "doctor": {"errors", "targets"},
    "model_files": {"errors", "pipeline"},
    "simulation_command": {"command_line", "errors", "progress", "serve"},
    "__main__": {"cli"},
    "cli": {
        "command_line",
        "compress",
        "compress_command",
        "compiled",
        "demo",
        "doctor",
        "driver",
        "errors",
        "learn",
        "optimizer",
        "passes",
        "pipeline",
        "preconditions",
        "model_files",
        "serve",
        "simulation_command",
        "version",
    },
    "testing": {"capture", "errors", "formats", "ir", "ops", "passes", "pipeline", "runtime", "targets"},
    FACE: {
        "budget",
        "capture",
        "compiled",
        "errors",
        "export",
        "fewer_collections",
        "ir",
        "optimizer",
        "pareto_front",
        "passes",
        "pipeline",
        "testing",
        "version",
    },
}

ROOMS = sorted(
    p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
)


def files(room: str) -> list[Path]:
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{room}.py"]


def package_of(file: Path) -> list[str]:
    """The package of a file, as the parts of its dotted name."""
    return ["recfx", *file.relative_to(ROOT).parts[:-1]]


def imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """The dotted names a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def reached(name: str) -> str | None:
    """The target of a dotted name: a path below `recfx` that begins with a room or with FACE; None outside."""
    parts = name.split(".")
    if parts[0] != "recfx":
        return None
    return ".".join(parts[1:] if len(parts) > 1 and parts[1] in ROOMS else [FACE, *parts[1:]])


def forbidden(source: str, room: str, package: list[str]) -> list[str]:
    """The imports of a source text that its room may not make."""
    wrong = []
    for name in imports(ast.parse(source), package):
        path = reached(name)
        if path is None or path.split(".")[0] == room:
            continue
        if not any(path == entry or path.startswith(f"{entry}.") for entry in ALLOWED[room]):
            wrong.append(name)
    return wrong


def module_of(name: str, modules: Collection[str]) -> str | None:
    """The module that an imported dotted name is, or is a part of."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    sources = {}
    for file in sorted(file for room in ROOMS for file in files(room)):
        parts = [*package_of(file), file.stem]
        sources[".".join(parts[:-1] if file.stem == "__init__" else parts)] = file
    return {
        module: {
            found
            for name in imports(ast.parse(file.read_text()), package_of(file))
            if (found := module_of(name, sources)) is not None and found != module
        }
        for module, file in sources.items()
    }


def test_every_room_is_listed() -> None:
    assert set(ROOMS) == set(ALLOWED), "give each room a line in ALLOWED, and take out lines of rooms that are gone"


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    for file in files(room):
        wrong = forbidden(file.read_text(), room, package_of(file))
        assert not wrong, f"{file} imports {wrong}, which ALLOWED[{room!r}] does not name"


def test_rooms_stand_in_layers() -> None:
    graph = {room: {entry.split(".")[0] for entry in entries} for room, entries in ALLOWED.items()}
    for room in ("zoo", "data"):
        graph[room] -= {"zoo", "data"}  # two independent rooms
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


def test_no_two_files_import_each_other() -> None:
    assert list(TopologicalSorter(import_graph()).static_order())


def test_retrieval_loads_no_capture_no_pass_and_no_target() -> None:
    code = "import sys, recfx.retrieval; print(*(m for m in sys.modules if m.startswith('recfx.')))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in run.stdout.split()}
    assert "retrieval" in loaded
    assert not loaded & {"capture", "ir", "passes", "pipeline", "targets", "driver"}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("formats", "from recfx.ir import Program"),
        ("errors", "import recfx.formats"),
        ("ir", "from recfx.learn import Trainer"),
        ("ir", "from recfx.capture import capture"),
        ("ir", "import recfx"),
        ("kernels", "from recfx.cost.timing import compare"),
        ("retrieval", "import recfx"),
        ("ops", "def f():\n    from recfx import retrieval"),
        ("driver", "from recfx.compiled import CompiledModel"),
        ("driver", "if TYPE_CHECKING:\n    from recfx.compiled import CompiledModel"),
        ("retrieval", "from recfx.targets import find"),
        ("retrieval", "from recfx.targets.eager import Eager"),
        ("passes", "from ..targets import native"),
        ("passes", "from recfx.capture import capture"),
        ("targets", "from recfx import passes"),
        ("targets", "from importlib import import_module\nimport_module('recfx.pipeline')"),
        ("targets", "class A:\n    def f(self):\n        import recfx.passes.clean.canonicalize as c"),
        ("data", "from ..optimizer import optimize"),
        ("cost", "if TYPE_CHECKING:\n    from recfx.pipeline import Pass"),
        ("zoo", "try:\n    from recfx.learn import penalty\nexcept ImportError:\n    raise"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert forbidden(source, room, ["recfx", room])


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("retrieval", "from recfx.kernels.library import load"),
        ("passes", "from ..ir import Program\nfrom ._match import value"),
        ("errors", "import recfxtra, os.path\nfrom torch import nn"),
    ],
)
def test_an_allowed_import_is_left_alone(room: str, source: str) -> None:
    assert not forbidden(source, room, ["recfx", room])


#: Part of the room serve -> what it may import of torch and recfx; other parts may import what the room may.
SERVE_PARTS = {
    "policies": ("recfx.serve.policies",),
    "simulator": ("recfx.errors", "recfx.serve.policies", "recfx.serve.simulator"),
}


@pytest.mark.parametrize("part", SERVE_PARTS)
def test_parts_of_serve_import_only_what_they_may(part: str) -> None:
    allowed = SERVE_PARTS[part]
    for file in sorted((ROOT / "serve" / part).rglob("*.py")):
        names = [
            n for n in imports(ast.parse(file.read_text()), package_of(file)) if n.split(".")[0] in ("torch", "recfx")
        ]
        wrong = [n for n in names if not any(n == entry or n.startswith(f"{entry}.") for entry in allowed)]
        assert not wrong, f"{file} imports {wrong}"


def test_policies_own_no_clock_and_no_random_state() -> None:
    for file in sorted((ROOT / "serve" / "policies").rglob("*.py")):
        names = set(imports(ast.parse(file.read_text()), package_of(file)))
        assert not {n for n in names if n.split(".")[0] in ("time", "datetime", "numpy", "threading", "asyncio")}, file
        assert not {n for n in names if n.split(".")[0] == "random"} - {"random.Random"}, file


def test_import_adds_little_to_torch() -> None:
    code = "import time, torch; t = time.perf_counter(); import recfx; print(time.perf_counter() - t)"

    def quick() -> bool:
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
        return float(run.stdout) < 0.2

    assert any(quick() for _ in range(3))  # a busy machine delays one or two of them


def test_names_of_test_files_are_unique() -> None:
    """pytest imports test files by their name alone, and refuses a second file of the same name."""
    seen: dict[str, Path] = {}
    for file in sorted((ROOT.parent / "tests").rglob("test_*.py")):
        assert file.name not in seen, f"{file} and {seen[file.name]}"
        seen[file.name] = file
