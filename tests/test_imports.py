"""Who may import whom, read from the source: an allow-list for every room. Also that `import recfx` stays quick.

Every way to import counts: at module level, inside a function, relative, and `import_module` with a literal name. What stands under
`if TYPE_CHECKING:` runs nothing, so it may name rooms of TYPES_ONLY as well. A room without a line in ALLOWED fails.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "recfx"

#: The public face `recfx` itself, as the target of an import.
FACE = "__init__"
VERSION = f"{FACE}.__version__"

#: Room -> what it may import of recfx: rooms, or a part of a room (`targets.native`).
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "formats": {"errors"},
    "ir": {"errors", "formats"},
    "ops": {"errors", "formats", "ir"},
    "pipeline": {"errors", "formats", "ir"},
    "stages": {"errors"},
    "cost": {"errors", "ir", "ops", "formats"},
    "passes": {"errors", "formats", "ir", "ops", "pipeline"},
    "targets": {"cost", "errors", "formats", "ir", "ops"},
    "zoo": {"data", "errors"},
    "data": {"errors", "zoo"},
    "learn": {"errors", "formats", "ops", "targets.native", "zoo"},
    "retrieval": {"errors", "formats", "ops", "targets.native", VERSION},
    "bench": {"data", "errors", "learn", "retrieval", "zoo", "formats"},
    "diagnose": {"errors", "ir"},
    "constant_inputs": {"errors", "ir", "pipeline", "formats"},
    "lowering": {"errors", "ir", "targets", "formats"},
    "report": {"errors", "ir", "pipeline", "formats"},
    "weight_watch": {"errors", "ir"},
    "compiled": {"artifact", "diagnose", "errors", "ir", "refresh", "report", "targets", "weight_watch", "formats"},
    "artifact": {"compiled", "errors", "formats", "ir", "pipeline", "refresh", "report", "targets", VERSION},
    "harm": {"compiled", "cost", "errors", "ir", "report", "formats"},
    "refresh": {"compiled", "constant_inputs", "errors", "formats", "harm", "ir", "optimizer", "passes", "pipeline"},
    "optimizer": {
        *("compiled", "constant_inputs", "cost", "errors", "formats", "harm", "ir"),
        *("lowering", "passes", "pipeline", "refresh", "report", "stages", "targets", "weight_watch"),
    },
    "demo_tasks": {"data", "errors", "zoo"},
    "demo": {"compiled", "cost", "data", "demo_tasks", "errors", "ir", "optimizer", "report", "formats"},
    "doctor": {"errors", "targets"},
    "cli": {"artifact", "bench", "demo", "doctor", "errors", "optimizer", "passes", "pipeline", "report"},
    "testing": {"errors", "ir", "ops", "formats", "passes", "pipeline", "targets"},
    FACE: {"artifact", "compiled", "errors", "ir", "optimizer", "passes", "pipeline", "report", "testing"},
}

#: Room -> what it may name besides under `if TYPE_CHECKING:`.
TYPES_ONLY: dict[str, set[str]] = {"report": {"compiled"}}

#: Rooms that form the road from a model to a compiled one. They know each other; all other rooms stand in layers.
ROAD = {"artifact", "compiled", "optimizer", "refresh"}

ROOMS = sorted(
    p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
)


def files(room: str) -> list[Path]:
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{room}.py"]


def package_of(file: Path) -> list[str]:
    """The package a file stands in, as the parts of its dotted name."""
    return ["recfx", *file.relative_to(ROOT).parts[:-1]]


def imports(tree: ast.AST, package: list[str], types_only: bool = False) -> Iterator[tuple[str, bool]]:
    """The dotted names a tree imports, and whether only type checkers see them."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in {
        n.id for n in ast.walk(tree.test) if isinstance(n, ast.Name)
    } | {n.attr for n in ast.walk(tree.test) if isinstance(n, ast.Attribute)}:
        for child in tree.body:
            yield from imports(child, package, True)
        for child in tree.orelse:
            yield from imports(child, package, types_only)
        return
    if isinstance(tree, ast.Import):
        yield from ((alias.name, types_only) for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        base = package[: len(package) - tree.level + 1] if tree.level else []
        stem = ".".join([*base, *([tree.module] if tree.module else [])])
        yield from ((f"{stem}.{alias.name}", types_only) for alias in tree.names)
    elif isinstance(tree, ast.Call) and ast.unparse(tree.func).split(".")[-1] in ("import_module", "__import__"):
        yield from (
            (a.value, types_only) for a in tree.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
        )
    for child in ast.iter_child_nodes(tree):
        yield from imports(child, package, types_only)


def reached(name: str) -> str | None:
    """What a dotted name reaches: a path below `recfx` that begins with a room or with FACE; None outside."""
    parts = name.split(".")
    if parts[0] != "recfx":
        return None
    return ".".join(parts[1:] if len(parts) > 1 and parts[1] in ROOMS else [FACE, *parts[1:]])


def forbidden(source: str, room: str, package: list[str]) -> list[str]:
    """The imports of a source text that its room may not make."""
    wrong = []
    for name, types_only in imports(ast.parse(source), package):
        path = reached(name)
        if path is None or path.split(".")[0] == room:
            continue
        allowed = ALLOWED[room] | (TYPES_ONLY.get(room, set()) if types_only else set())
        if not any(path == entry or path.startswith(f"{entry}.") for entry in allowed):
            wrong.append(name)
    return wrong


def test_every_room_is_listed() -> None:
    assert set(ROOMS) == set(ALLOWED), "give each room a line in ALLOWED, and take out lines of rooms that are gone"
    assert set(TYPES_ONLY) <= set(ALLOWED)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    for file in files(room):
        wrong = forbidden(file.read_text(), room, package_of(file))
        assert not wrong, f"{file} imports {wrong}, which ALLOWED[{room!r}] does not name"


def test_rooms_below_the_road_stand_in_layers() -> None:
    below = {room: {entry.split(".")[0] for entry in entries} for room, entries in ALLOWED.items() if room not in ROAD}
    for room in ("zoo", "data"):
        below[room] -= {"zoo", "data"}  # two rooms side by side
    graph = {room: {entry for entry in entries if entry not in ROAD | {FACE, room}} for room, entries in below.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("formats", "from recfx.ir import Program"),
        ("errors", "import recfx.formats"),
        ("ir", "from recfx.learn import Trainer"),
        ("ir", "import recfx"),
        ("retrieval", "import recfx"),
        ("ops", "def f():\n    from recfx import retrieval"),
        ("report", "from recfx.compiled import CompiledModel"),
        ("retrieval", "from recfx.targets import find"),
        ("retrieval", "from recfx.targets.eager import Eager"),
        ("passes", "from ..targets import native"),
        ("targets", "from recfx import passes"),
        ("targets", "from importlib import import_module\nimport_module('recfx.pipeline')"),
        ("targets", "class A:\n    def f(self):\n        import recfx.passes.clean.canonicalize as c"),
        ("data", "from ..optimizer import optimize"),
        ("cost", "if TYPE_CHECKING:\n    from recfx.pipeline import Pass"),
        ("cost", "if not typing.TYPE_CHECKING:\n    pass\nelse:\n    from recfx.passes import FuseMlp"),
        ("report", "if TYPE_CHECKING:\n    pass\nelse:\n    from recfx.compiled import Parts"),
        ("zoo", "try:\n    from recfx.learn import penalty\nexcept ImportError:\n    raise"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert forbidden(source, room, ["recfx", room])


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("report", "if TYPE_CHECKING:\n    from recfx.compiled import CompiledModel"),
        ("retrieval", "from recfx.kernels.library import load"),
        ("passes", "from ..ir import Program\nfrom ._match import value"),
        ("errors", "import recfxtra, os.path\nfrom torch import nn"),
    ],
)
def test_an_allowed_import_is_left_alone(room: str, source: str) -> None:
    assert not forbidden(source, room, ["recfx", room])


@pytest.mark.skipif(not (ROOT / "serve" / "policies").exists(), reason="no serve/policies yet")
def test_policies_are_pure() -> None:
    for file in sorted((ROOT / "serve" / "policies").rglob("*.py")):
        names = [name for name, _ in imports(ast.parse(file.read_text()), package_of(file))]
        outside = [n for n in names if n.split(".")[0] in ("torch", "recfx")]
        assert all(n.startswith("recfx.serve.policies") for n in outside), file


def test_import_adds_little_to_torch() -> None:
    code = "import time, torch; t = time.perf_counter(); import recfx; print(time.perf_counter() - t)"

    def quick() -> bool:
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
        return float(run.stdout) < 0.2

    assert any(quick() for _ in range(3))  # a busy machine delays one or two of them
