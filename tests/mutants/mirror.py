"""The mutated files, and the tests that must notice their mutants."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.mutants.imports import ROOT, distances, module_of, source_files, test_files

#: The largest number of test files of a source file, unless more are named after it.
_MOST_FILES = 40

#: Rooms whose tests are in the folder of another room.
_TESTED_IN = {"recfx/kernels": "targets", "recfx/passes": "passes", "recfx/targets": "targets"}


#: Rooms of translations of single operators, which the conformance suite tests operator by operator.
_CONFORMANCE = ("targets/native/rules", "targets/openvino", "targets/onnxruntime", "recfx/onnx")

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

    Test files of its name in the mirror folder come first, then the conformance suite for translations of operators. Then
    come the test files whose imports reach it, directly or through test helpers, packages and names of passes: the fewer
    imports, the nearer. Files of the mirror folder count as one import nearer.
    """
    stem, folder = Path(file).stem.lstrip("_"), _mirror(str(Path(file).parent))
    steps = distances(module_of(file))

    def rank(test: str) -> tuple[int, int, str]:
        name, near = _name(test), _folder(test) == folder
        suite = file.startswith(_CONFORMANCE) and "/conformance/" in test
        named = 0 if near and name.startswith(stem) else 1 if suite or (near and stem in name) else 2
        return named, steps.get(test, 0) + (not near), test

    named = [test for test in test_files() if rank(test)[0] < 2]
    ordered = sorted({*steps, *named}, key=rank)
    return tuple(ordered[: max(_MOST_FILES, len(named))])


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
