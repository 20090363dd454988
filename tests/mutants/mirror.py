"""The mutated files, and the tests that must notice their mutants."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from tests.mutants.imports import ROOT, distances, facts, module_of, source_files, test_files

#: The largest number of test files of a source file, unless more are named after it.
_MOST_FILES = 40

#: Where the imports of a test file do not reach a source file, it counts as this many imports away.
_UNREACHED = 9

#: Texts of a test file of this length are looked for in the sources, such as parts of messages.
_LEAST_TEXT, _MOST_TEXT = 10, 80

#: Rooms whose tests are in the folder of another room, or of another name.
_TESTED_IN = {
    "recfx/kernels": "targets",
    "recfx/passes": "passes",
    "recfx/targets": "targets",
    "targets/tensorrt": "targets/tensorrt_backend",
}

#: Rooms of translations of single operators, which the conformance suite tests operator by operator.
_CONFORMANCE = ("targets/native/rules", "targets/openvino", "targets/onnxruntime", "recfx/onnx")

#: Start of the name of a file -> the tests of what all such files declare when they are imported.
_DECLARATIONS = {
    "passes/": ("tests/passes/test_pass_declarations.py",),
    "recfx/": ("tests/test_public_defaults.py",),
    "targets/": ("tests/test_public_defaults.py",),
}

#: Generated files, whose text a test compares with the generator's.
_GENERATED = ("recfx/kernels/codes.py", "recfx/kernels/slots.py")


@cache
def mutated_files() -> tuple[str, ...]:
    """All mutated files: the files of every room except `__init__.py` files, generated files and the generator of the
    kernels' sources."""
    found = [f for f in source_files() if Path(f).name != "__init__.py" and "csrc" not in Path(f).parts]
    return tuple(f for f in found if f not in _GENERATED)


@cache
def tests_of(file: str) -> tuple[str, ...]:
    """The test files of a source file, nearest first; empty if no test reaches it.

    Test files of its name in the mirror folder come first, with or without the words of the room in front
    ("test_data_criteo.py" is named after recfx/data/criteo.py). Then come those with its name inside theirs, and the
    conformance suite for translations of operators; then, if its room has no test folder, those named after the room.
    Then come the test files whose imports reach it, directly or through test helpers, packages and names of passes: the
    fewer imports, the nearer. Files of the mirror folder count as one import nearer. Among equals, those come first that
    name more of what the file defines and of the texts in it, such as its errors.
    """
    stem, folder = Path(file).stem.lstrip("_"), _mirror(str(Path(file).parent))
    steps = distances(module_of(file))
    words = set(Path(file).parent.parts)
    untested = words - {"recfx", *folder.parts} if _TESTED_IN.get(str(Path(file).parent)) is None else set()

    def kind(test: str) -> int:
        name, near = _name(test), _folder(test) == folder
        bare = _without_room(name, words)
        if near and bare.startswith(stem):
            return int(bare != stem)
        if (file.startswith(_CONFORMANCE) and "/conformance/" in test) or (near and f"_{stem}_" in f"_{name}_"):
            return 2
        return 3 if near and any(f"_{word}_" in f"_{name}_" for word in untested) else 4

    kinds = {test: kind(test) for test in test_files()}
    named = [test for test, its in kinds.items() if its <= 2]

    def rank(test: str) -> tuple[int, int, int, str]:
        away = steps.get(test, _UNREACHED) + (_folder(test) != folder)
        return kinds[test], away, -_mentions(test, file), test

    ordered = sorted({*steps, *named}, key=rank)
    return tuple(ordered[: max(_MOST_FILES, len(named))])


def for_names(files: Sequence[str], names: Iterable[str], number: int) -> list[str]:
    """Some of the test files of a source file: more than half are the nearest, the others name most of what a function names.

    A name counts for less, the more test files have it.

    Args:
        files: The test files, nearest first.
        names: The names in the function.
        number: The number of files.
    """
    first, rest = list(files[: number // 2 + 1]), files[number // 2 + 1 :]
    weights = {name: 1 / count for name in names if (count := _files_with().get(name))}

    def weight(test: str) -> float:
        return -sum(weights.get(name, 0.0) for name in _words_of(test)[0])

    return [*first, *sorted(rest, key=weight)][:number]


@cache
def _files_with() -> Counter[str]:
    """Name -> the number of test files that have it."""
    return Counter(name for test in test_files() for name in _words_of(test)[0])


def tests_of_declarations(file: str) -> tuple[str, ...]:
    """The tests of what all files of a room declare when they are imported, such as defaults and properties of passes."""
    return next(tests for start, tests in _DECLARATIONS.items() if file.startswith(start))


def _without_room(name: str, words: set[str]) -> str:
    """The name of a test file without the words of a room in front of it."""
    first, _, rest = name.partition("_")
    return _without_room(rest, words) if rest and first in words else name


def _mentions(test: str, file: str) -> int:
    """How many of the definitions and texts of a source file a test file names."""
    names, texts = _words_of(test)
    return len(_defined(file) & names) + sum(text in _text(file) for text in texts)


@cache
def _words_of(test: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names in a test file, and its texts of several words."""
    found = facts(test)
    return found.names, frozenset(
        text for text in found.texts if " " in text and _LEAST_TEXT <= len(text) <= _MOST_TEXT
    )


@cache
def _defined(file: str) -> frozenset[str]:
    """The public functions, classes and constants of a source file."""
    found = {node.name for node in ast.walk(ast.parse(_text(file))) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return frozenset(name for name in found if not name.startswith("_"))


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text()


@cache
def _name(test: str) -> str:
    return Path(test).stem.removeprefix("test_")


@cache
def _folder(test: str) -> Path:
    return (ROOT / test).parent


def _mirror(room: str) -> Path:
    """The test folder of a room, or the nearest existing folder above it."""
    folder = ROOT / "tests" / _TESTED_IN.get(room, room.removeprefix("recfx").lstrip("/"))
    while not folder.is_dir():
        folder = folder.parent
    return folder
