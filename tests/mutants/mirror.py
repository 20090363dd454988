"""The mutated files, and the tests that must notice their mutants."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The mutated folders and files.
MUTATED = (
    "passes",
    "recfx/capture",
    "recfx/ir",
    "recfx/analysis",
    "recfx/runtime",
    "recfx/pipeline",
    "recfx/testing",
    "recfx/kernels",
    "targets/native",
    "recfx/retrieval",
    "recfx/driver/measure.py",
)

#: The largest number of passes whose tests count as tests of a helper that they use.
_MOST_FILES = 6


#: Rooms whose tests are in the folder of another room.
_TESTED_IN = {"targets/native": "targets", "targets/native/rules": "targets", "recfx/kernels": "targets"}


@cache
def mutated_files() -> tuple[str, ...]:
    """All files with mutants, without packages' `__init__`."""
    found: list[str] = []
    for entry in MUTATED:
        path = ROOT / entry
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py" and "csrc" not in f.parts]
    return tuple(found)


def module_of(file: str) -> str:
    """The dotted module name of a file."""
    parts = Path(file).with_suffix("").parts
    return ".".join(parts if parts[0] == "recfx" else ("recfx", *parts))


@cache
def tests_of(file: str) -> tuple[str, ...]:
    """The test files of a source file: those of its name; otherwise those whose imports reach it, nearest first;
    otherwise those of its room."""
    stem, room = Path(file).stem.lstrip("_"), str(Path(file).parent)
    folder = ROOT / "tests" / _TESTED_IN.get(room, room.removeprefix("recfx/"))
    known = _all_tests()
    own = [t for t in known if Path(t).stem.removeprefix("test_").startswith(stem) and _near(t, folder)]
    named = [t for t in known if stem in Path(t).stem and _near(t, folder) and t not in own]
    users = [t for t in _reaching(module_of(file), known) if t not in own and t not in named]
    ordered = [*own, *named, *sorted(users, key=lambda t: not _near(t, folder))]
    room_tests = [t for t in known if (ROOT / t).parent == folder]
    return tuple(ordered[: max(_MOST_FILES, len(own))] or room_tests)


def _near(test: str, folder: Path) -> bool:
    return (ROOT / test).parent == folder or not folder.is_dir()


@cache
def _all_tests() -> tuple[str, ...]:
    skipped = ("thirdparty", "recipes", "benchmarks")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return tuple(str(f.relative_to(ROOT)) for f in files if f.parent.name not in skipped)


def _reaching(module: str, tests: tuple[str, ...]) -> list[str]:
    """Tests that import a module directly or through other modules, those with fewer steps first."""
    wanted, found, seen = {module}, [], set()
    while wanted:
        found += [test for test in tests if test not in found and _names(test) & wanted]
        seen |= wanted
        wanted = {importer for name in wanted for importer in _importers().get(name, ())} - seen
    # Tests refer to a pass by its name in pipelines, so the file's name counts as an import, even if several files test
    # the pass.
    stems = tuple(name.rsplit(".", 1)[-1] for name in seen if name.startswith("recfx.passes."))
    named = [t for t in tests if t not in found and Path(t).stem.removeprefix("test_").startswith(stems)]
    return [*found, *sorted(named, key=lambda t: Path(t).stem.removeprefix("test_") not in stems)]


@cache
def _importers() -> dict[str, set[str]]:
    """Module -> the mutated modules that import it."""
    found: dict[str, set[str]] = {}
    for file in mutated_files():
        for name in _names(file):
            found.setdefault(name, set()).add(module_of(file))
    return found


@cache
def _names(file: str) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            names |= {_exported(node.module).get(alias.name, node.module) for alias in node.names}
    return frozenset(names)


@cache
def _exported(package: str) -> dict[str, str]:
    """Name that a package exports -> the module that defines it."""
    file = ROOT.joinpath(*package.split("."), "__init__.py")
    if not package.startswith("recfx.") or not file.is_file():
        return {}
    imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
