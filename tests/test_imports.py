"""The import rules of the house, read from the source: who may import whom, and that `import recfx` stays quick.

Imports under `if TYPE_CHECKING:` are exempt: they run nothing. Imports inside functions count like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "recfx"

#: Room -> the rooms it must not import.
FORBIDDEN = {
    "errors": {"*"},
    "ir": {"pipeline", "passes", "targets", "cost", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "ops": {"pipeline", "passes", "targets", "cost", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "pipeline": {"passes", "targets", "cost", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "cost": {"passes", "targets", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "passes": {"targets", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "learn": {"pipeline", "passes", "cost", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "retrieval": {"pipeline", "passes", "cost", "learn", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
    "targets": {"passes", "zoo", "data", "optimizer", "compiled", "artifact", "cli", "serve", "testing"},
}  # fmt: skip
FORBIDDEN["bench"] = {"pipeline", "passes", "cost", "optimizer", "compiled", "artifact", "cli", "serve", "testing"}
for _rooms in FORBIDDEN.values():
    if "optimizer" in _rooms:  # of which lowering is a part; no room but the face knows the tables
        _rooms |= {"lowering", "bench"}

ROOMS = sorted(
    p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
)


def files(room: str) -> list[Path]:
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{room}.py"]


def imported(file: Path) -> set[str]:
    """The dotted names a file imports, those for type checkers alone left out."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(file.read_text()))
    return found


def rooms_of(names: set[str]) -> set[str]:
    return {n.split(".")[1] for n in names if n.startswith("recfx.") and n.split(".")[1] in ROOMS}


@pytest.mark.parametrize("room", sorted(set(FORBIDDEN) & set(ROOMS)))
def test_room_imports_only_what_stands_above_it(room: str) -> None:
    for file in files(room):
        reached = rooms_of(imported(file)) - {room}
        forbidden = reached if "*" in FORBIDDEN[room] else reached & FORBIDDEN[room]
        assert not forbidden, f"{file} imports {sorted(forbidden)}"


@pytest.mark.parametrize("room", sorted({"zoo", "data"} & set(ROOMS)))
def test_zoo_and_data_stand_alone(room: str) -> None:
    for file in files(room):
        assert rooms_of(imported(file)) <= {"zoo", "data", "errors"}, file


@pytest.mark.skipif(not (ROOT / "serve" / "policies").exists(), reason="no serve/policies yet")
def test_policies_are_pure() -> None:
    for file in sorted((ROOT / "serve" / "policies").rglob("*.py")):
        outside = {n for n in imported(file) if n.split(".")[0] in ("torch", "recfx")}
        assert all(n.startswith("recfx.serve.policies") for n in outside), file


def test_import_adds_little_to_torch() -> None:
    code = "import time, torch; t = time.perf_counter(); import recfx; print(time.perf_counter() - t)"

    def quick() -> bool:
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
        return float(run.stdout) < 0.2

    assert any(quick() for _ in range(3))  # a busy machine delays one or two of them
