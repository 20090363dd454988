"""The source of passes that another process cannot import: passes of a script, a notebook, or a function.

The source holds only the statement of the pass, and the statements or values of the names that it reads. The script is not run again.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from recfx.errors import ArtifactError
from recfx.pipeline.base import Pass
from recfx.pipeline.rewrite import RewritePass
from recfx.pipeline.value_source import value_source

_LOCALS = "<locals>."
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def importable_from(module: str) -> str | None:
    """The entry of `sys.path` from which another process can import a module; None if it cannot."""
    if module == "__main__" or module in sys.builtin_module_names:
        return None
    spec = importlib.machinery.PathFinder.find_spec(module.partition(".")[0])
    if spec is None:
        return None
    origin = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    if origin is None or origin in ("frozen", "built-in"):
        return None
    parents = 2 if spec.submodule_search_locations is not None and spec.origin else 1
    return str(Path(origin).resolve().parents[parents - 1])


def is_importable(item: Pass) -> bool:
    """Whether another process can import a pass by its module and name."""
    cls = type(item)
    try:
        held = attrgetter(cls.__qualname__)(sys.modules.get(cls.__module__))
    except AttributeError:
        return False
    return (held is cls or type(held) is cls) and importable_from(cls.__module__) is not None


class PassSource:
    """A source file that defines passes; `add` extends it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._known: dict[str, Any] = {}
        self._defined: set[str] = set()

    def __str__(self) -> str:
        return (
            "\n\n".join(['"""The passes of the reproducer."""', "from __future__ import annotations", *self._pieces])
            + "\n"
        )

    def add(self, item: Pass) -> str:
        """Adds a pass; returns its name in the source.

        Raises:
            ArtifactError: The source of the pass, or of a value that it reads, cannot be written.
        """
        cls = type(item)
        name = cls.__qualname__.rpartition(_LOCALS)[2]
        if not isinstance(item, RewritePass):
            outer = name.partition(".")[0]
            self._define(outer, _methods(cls), outer)
            return name
        rule: Any = type(item).rule
        node = self._define(rule.__name__, [rule], rule.__name__)
        if node.decorator_list:
            return name
        made = f"{rule.__name__}_pass"
        targets = [value_source(target) for target in type(item).targets]
        if not all(targets):
            raise ArtifactError(f"the operators of {item} cannot be written", hint="pass operators of torch.ops")
        self._pieces.append(
            f"import recfx\nimport torch\n{made} = recfx.rewrite({', '.join(map(str, targets))}, {_spec(item)})({rule.__name__})"
        )
        return made

    def _define(self, key: str, functions: list[FunctionType], name: str) -> Any:
        """Adds the statement that defines a function or class, after the statements of the names that it reads."""
        if not functions:
            raise ArtifactError(
                f"{name} has no source: it was made without a class statement", hint="write it as a class"
            )
        code = functions[0].__code__
        text = "".join(linecache.getlines(code.co_filename))
        node = _statement(text, name, code.co_firstlineno) if text else None
        if node is None:
            raise ArtifactError(
                f"the source of {name} was not found in {code.co_filename}", hint="define it in a file or a notebook"
            )
        if key in self._defined:
            return node
        self._defined.add(key)
        segment = _segment(text, node)
        closure: dict[str, Any] = {}
        for function in functions:
            closure |= inspect.getclosurevars(function).nonlocals
        self._add_names(segment, {**functions[0].__globals__, **closure}, "" if closure else text)
        self._pieces.append(segment)
        return node

    def _add_names(self, segment: str, space: dict[str, Any], text: str) -> None:
        """Adds the values of the names that a statement reads from its surroundings."""
        for name in _names_read(segment):
            if name in space and name not in self._defined and not name.startswith("__"):
                self._add_value(name, space, text)

    def _add_value(self, name: str, space: dict[str, Any], text: str) -> None:
        value = space[name]
        if name in self._known:
            if self._known[name] is not value:
                raise ArtifactError(f"the passes read two values called {name}", hint="rename one of them")
            return
        self._known[name] = value
        if (written := value_source(value, name) or _import_of(name, value)) is not None:
            self._pieces.append(written)
            return
        if isinstance(value, type | FunctionType) and (functions := _functions(value)):
            self._define(name, functions, value.__name__)
            return
        for source in (text, *_cells(space)):
            if (statement := _assignment(source, name)) is not None:
                segment = _segment(source, statement)
                self._defined.add(name)
                self._add_names(segment, space, source)
                self._pieces.append(segment)
                return
        raise ArtifactError(
            f"the pass reads {name}, a {type(value).__name__} that has no source",
            hint="make it an option of the pass, or assign it at the top of the script",
        )


def _names_read(segment: str) -> list[str]:
    """The names that a statement reads from its surroundings, in order."""
    top = symtable.symtable(segment, "<pass>", "exec")
    found: dict[str, None] = {}
    tables = [top]
    while tables:
        table = tables.pop(0)
        for symbol in table.get_symbols():
            free = symbol.is_referenced() and not symbol.is_assigned() if table is top else symbol.is_global()
            if free and not hasattr(builtins, symbol.get_name()):
                found[symbol.get_name()] = None
        tables += table.get_children()
    return list(found)


def _functions(value: type | FunctionType) -> list[FunctionType]:
    return [value] if isinstance(value, FunctionType) else _methods(value)


def _methods(cls: type) -> list[FunctionType]:
    """The functions that a class statement defines, also in nested classes."""
    found: list[FunctionType] = []
    for value in vars(cls).values():
        inner = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(inner, FunctionType) and not inner.__code__.co_filename.startswith("<string>"):
            found.append(inner)
        elif (
            isinstance(inner, type)
            and inner.__module__ == cls.__module__
            and inner.__qualname__.startswith(cls.__qualname__ + ".")
        ):
            found += _methods(inner)
    return found


def _statement(text: str, name: str, line: int) -> Any:
    """The innermost definition of a name whose lines include `line`; None if the source has no such definition."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, _DEFINITIONS) and node.name == name and _first_line(node) <= line <= (node.end_lineno or 0)
    ]
    return max(found, key=lambda node: node.lineno, default=None)


def _assignment(text: str, name: str) -> ast.stmt | None:
    """The last top-level statement of a source that assigns a name; or None."""
    try:
        body = ast.parse(text).body
    except SyntaxError:  # a cell with commands of the notebook
        return None
    return next((s for s in reversed(body) if name in _assigned(s)), None)


def _assigned(statement: ast.stmt) -> set[str]:
    targets: list[Any] = (
        statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    )
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return set()
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _first_line(node: Any) -> int:
    return int(min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]))


def _segment(text: str, node: Any) -> str:
    """The lines of a statement, decorators included, without indentation."""
    return textwrap.dedent("\n".join(text.splitlines()[_first_line(node) - 1 : node.end_lineno]))


def _cells(space: dict[str, Any]) -> Iterator[str]:
    """The sources of the cells of a notebook, the latest first."""
    cells = space.get("In")
    if isinstance(cells, list):
        yield from (cell for cell in reversed(cells) if isinstance(cell, str))


def _import_of(name: str, value: Any) -> str | None:
    """The import statement for a module, function or class; None if another process cannot import it."""
    if isinstance(value, ModuleType):
        return (
            f"import {value.__name__} as {name}"
            if importable_from(value.__name__) or value.__name__ in sys.builtin_module_names
            else None
        )
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(qualname, str)) or "." in qualname:
        return None
    held = sys.modules.get(module)
    known = importable_from(module) or module in sys.builtin_module_names
    return f"from {module} import {qualname} as {name}" if known and getattr(held, qualname, None) is value else None


def _spec(item: Pass) -> str:
    """The declaration of a rewrite as keyword arguments of `recfx.rewrite`."""
    spec = item.spec
    words = [f"name={spec.name!r}", f"exactness=recfx.Exactness.{spec.exactness.name}"]
    for field in ("requires", "prefers", "avoids", "forbids", "establishes", "invalidates", "preserves", "needs"):
        words.append(f"{field}={sorted(getattr(spec, field))!r}")
    words += [f"{field}={getattr(spec, field)}" for field in ("changes_state", "idempotent", "mandatory")]
    return ", ".join(words)
