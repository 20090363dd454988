"""The imports of recfx, the tests and the test helpers, read from the source.

`from recfx.ir import Program` counts as an import of the module that defines `Program`, not of the whole package. The name of a pass in a
string ("fuse-cross") counts as an import of the pass, and the dotted name of a module as an import of the module.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Folders of sources; `passes` and `targets` are imported as `recfx.passes` and `recfx.targets`.
SOURCES = ("recfx", "passes", "targets")

#: Test folders that do not judge mutants: they need other packages, or test the benchmarks or the mutation testing.
_OUTSIDE = ("thirdparty", "benchmarks", "mutants")


@cache
def module_of(file: str) -> str:
    """The dotted module name of a source file; `tests.` and the file name for a test helper."""
    path = Path(file).with_suffix("")
    if path.parts[0] == "tests":
        return f"tests.{path.name}"
    parts = path.parts if path.parts[0] == "recfx" else ("recfx", *path.parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def source_files() -> tuple[str, ...]:
    """All Python files of the sources."""
    found = [f.relative_to(ROOT) for folder in SOURCES for f in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(str(f) for f in found if f.parts[:2] not in (("recfx", "passes"), ("recfx", "targets")))


@cache
def test_files() -> tuple[str, ...]:
    """All test files that judge mutants."""
    return tuple(file for file in _below_tests() if Path(file).name.startswith("test_"))


@cache
def distances(module: str) -> dict[str, int]:
    """Test file -> the number of imports between it and a module, 1 if it imports the module.

    A module that only its package imports (because the import registers something) counts as imported by every importer of the package.
    """
    package = module.rpartition(".")[0] + "."
    return _walk({module}) or _walk({name for name in _modules() if name.startswith(package)})


def _walk(start: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    tests = frozenset(test_files())
    reached, edge, steps = start, start, 0
    while edge:
        steps += 1
        importers = {file for name in edge for file in _importers().get(name, ())}
        for file in importers & tests:
            found.setdefault(file, steps)
        edge = {module_of(file) for file in importers} - reached
        reached = reached | edge
    return found


def _below_tests() -> list[str]:
    files = sorted(f.relative_to(ROOT) for f in (ROOT / "tests").rglob("*.py"))
    return [str(f) for f in files if f.parts[1] not in _OUTSIDE]


@cache
def _importers() -> dict[str, list[str]]:
    """Module -> the files that import it."""
    found: dict[str, list[str]] = {}
    for file in [*source_files(), *_below_tests()]:
        for name in _imported(file):
            found.setdefault(name, []).append(file)
    return found


@cache
def _modules() -> frozenset[str]:
    return frozenset(module_of(file) for file in source_files())


@cache
def _helpers() -> frozenset[str]:
    return frozenset(Path(file).stem for file in _below_tests() if not Path(file).name.startswith("test_"))


@cache
def _passes() -> dict[str, str]:
    """Name of a pass -> its module."""
    files = [file for file in source_files() if file.startswith("passes/")]
    declared = re.compile(r"PassSpec\(\s*(?:name=)?\"([a-z-]+)\"")
    return {name: module_of(file) for file in files for name in declared.findall((ROOT / file).read_text())}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one walk over a file finds.

    Attributes:
        imports: The import statements.
        names: The names and the attributes.
        dotted: The owners and attributes of dotted names that begin with `recfx`.
        texts: The strings.
    """

    imports: tuple[ast.Import | ast.ImportFrom, ...]
    names: frozenset[str]
    dotted: frozenset[tuple[str, str]]
    texts: frozenset[str]


@cache
def facts(file: str) -> Facts:
    """The facts of a file, relative to the repository. It does not walk with `ast.walk`, which takes three times as long."""
    imports, names, dotted, texts = [], set(), set(), set()
    waiting: list[ast.AST] = [ast.parse((ROOT / file).read_text())]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is ast.Name:
            names.add(node.id)  # type: ignore[attr-defined]
            continue
        if kind is ast.Constant:
            if type(node.value) is str:  # type: ignore[attr-defined]
                texts.add(node.value)  # type: ignore[attr-defined]
            continue
        if kind is ast.Attribute:
            names.add(node.attr)  # type: ignore[attr-defined]
            if owner := _dotted(node.value):  # type: ignore[attr-defined]
                dotted.add((owner, node.attr))  # type: ignore[attr-defined]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        for value in node.__dict__.values():
            if type(value) is list:
                waiting += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)
    return Facts(tuple(imports), frozenset(names), frozenset(dotted), frozenset(texts))


def _dotted(node: ast.AST) -> str:
    """A dotted name that begins with `recfx`; empty for another expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(["recfx", *reversed(parts)]) if isinstance(node, ast.Name) and node.id == "recfx" else ""


def _imported(file: str) -> set[str]:
    """The modules and test helpers that a file imports."""
    found = facts(file)
    names = {name for node in found.imports for name in _names(node)}
    names |= {_defining(owner, name) for owner, name in found.dotted if owner in _modules()}
    words = {word for text in found.texts for word in _WORD.findall(text) if word in _passes()}
    names |= {_passes()[word] for word in words}
    return (names | {text for text in found.texts if text in _modules() and text != "recfx"}) - {module_of(file)}


_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


def _names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        yield from (f"tests.{alias.name}" for alias in node.names if alias.name in _helpers())
    elif node.module:
        last = node.module.rsplit(".", 1)[-1]
        if last in _helpers() and not node.module.startswith("recfx"):
            yield f"tests.{last}"
        yield from (_defining(node.module, alias.name) for alias in node.names)


def _defining(module: str, name: str) -> str:
    """The module that defines a name that a module exports."""
    if f"{module}.{name}" in _modules():
        return f"{module}.{name}"
    behind = _exported(module).get(name)
    return module if behind is None or behind == module else _defining(behind, name)


@cache
def _exported(package: str) -> dict[str, str]:
    """Name that a package exports -> the module that it imports the name from."""
    file = ROOT.joinpath(*package.split("."), "__init__.py")
    if not package.startswith("recfx") or not file.is_file():
        return {}
    imports = [n for n in facts(str(file.relative_to(ROOT))).imports if isinstance(n, ast.ImportFrom) and n.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
