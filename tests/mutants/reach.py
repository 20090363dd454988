"""Finds the functions of the mutated files that each test runs: the files are imported with a recording call at the
start of every function."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
from collections.abc import Callable, Mapping
from types import CodeType, ModuleType
from typing import Any

from tests.mutants.imports import ROOT, module_of
from tests.mutants.mutate import FUNCTIONS, first_line

#: A function: its file and its first line.
Place = tuple[str, int]


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer that replaces the code of files.

    Args:
        made: File -> the function that makes its code.
        names: Further globals of the code.
    """

    def __init__(self, made: Mapping[str, Callable[[], CodeType]], names: Mapping[str, Any]) -> None:
        self._made = {module_of(file): (file, make) for file, make in made.items()}
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in self._made:
            return None
        return importlib.util.spec_from_file_location(fullname, str(ROOT / self._made[fullname][0]), loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(self._names)
        exec(self._made[module.__name__][1](), module.__dict__)


def compiled(file: str, tree: ast.Module) -> CodeType:
    """Compiles a tree as the code of a file."""
    return compile(tree, str(ROOT / file), "exec")


def observed(file: str) -> CodeType:
    """The code of a file whose functions call `__reached__` with their first line."""
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        if not isinstance(node, FUNCTIONS):
            continue
        note = ast.Call(ast.Name("__reached__", ast.Load()), [ast.Constant((file, first_line(node)))], [])
        if isinstance(node, ast.Lambda):
            pair = ast.Tuple([note, node.body], ast.Load())
            node.body = ast.Subscript(pair, ast.Constant(1), ast.Load())
        else:
            ast.copy_location(statement := ast.Expr(note), node)
            node.body.insert(int(ast.get_docstring(node, clean=False) is not None), statement)
    return compiled(file, ast.fix_missing_locations(tree))


class Reached:
    """Collects the functions that each test runs."""

    def __init__(self) -> None:
        self.now: set[Place] = set()

    def finder(self, files: list[str]) -> Finder:
        """The finder that must be on `sys.meta_path` when the files are imported."""
        return Finder({file: lambda f=file: observed(f) for file in files}, {"__reached__": self.note})  # type: ignore[misc]

    def note(self, place: Place) -> None:
        self.now.add(place)
