"""Swaps a mutant into a process that has already imported the source: its functions get the code of the mutant."""

from __future__ import annotations

import ast
import functools
import gc
import sys
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from tests.mutants.imports import ROOT
from tests.mutants.mutate import Mutant
from tests.mutants.reach import compiled

#: Caches that are kept: captured programs, which mutants of later stages do not change.
_CAPTURES = ("_captured", "small_model")

#: Modules whose caches are kept: the loaded kernels, and the modules of mutation testing.
_LASTING = ("recfx.kernels.library", "tests.mutants")

#: Rooms whose mutants change captured programs.
_CAPTURING = ("recfx/capture", "recfx/ir", "recfx/formats", "recfx/ops")


def swap(mutant: Mutant) -> bool:
    """Gives all changed functions of the mutated file their mutated code; returns False if the mutant changes other
    code too."""
    if mutant.function(ROOT) is None:
        return False
    before = _functions(compiled(mutant.file, ast.parse((ROOT / mutant.file).read_text())))
    after = _functions(compiled(mutant.file, mutant.tree(ROOT)))
    if before.keys() != after.keys():
        return False
    changed = {key: code for key, code in after.items() if code != before[key]}
    # Two lambdas on one line cannot be distinguished.
    if any(before[key] is None or code is None for key, code in changed.items()):
        return False
    found = False
    gc.unfreeze()
    for function in [f for f in gc.get_objects() if type(f) is FunctionType]:
        code = (
            changed.get(_key(function.__code__)) if function.__code__.co_filename == str(ROOT / mutant.file) else None
        )
        if code is None:
            continue
        if code.co_freevars != function.__code__.co_freevars:
            return False
        function.__code__ = code
        found = True
    return found


def caches(file: str) -> list[Any]:
    """The caches of recfx and its tests that must be cleared so that the code of a mutant runs again."""
    keep = () if file.startswith(_CAPTURING) else _CAPTURES
    gc.unfreeze()
    found = []
    for cached in [c for c in gc.get_objects() if type(c) is functools._lru_cache_wrapper]:
        path = Path(getattr(sys.modules.get(cached.__module__), "__file__", None) or "/")
        ours = ROOT in path.parents and not cached.__module__.startswith(_LASTING)
        if ours and cached.__name__ not in keep:
            found.append(cached)
    gc.freeze()
    return found


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _functions(code: CodeType) -> dict[tuple[str, int], CodeType | None]:
    """The code of all functions in a module, including inner functions; None for several functions of the same name and
    line."""
    found: dict[tuple[str, int], CodeType | None] = {}
    waiting = [code]
    while waiting:
        for constant in waiting.pop().co_consts:
            if isinstance(constant, CodeType):
                found[_key(constant)] = None if _key(constant) in found else constant
                waiting.append(constant)
    return found
