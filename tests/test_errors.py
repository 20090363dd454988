"""Every error of recfx has a next step, and hints name arguments that exist."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import recfx
from recfx import errors

ROOT = Path(__file__).parents[1]
ROOMS = ("recfx", "passes", "targets", "benchmarks")
CLASSES = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, errors.RecfxError)
}
#: Classes whose errors have one next step in common; errors of all others are raised with a step of their own.
COMMON = {name for name, cls in CLASSES.items() if "next_step" in vars(cls)} - {"RecfxError"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(part.is_symlink() for part in path.parents):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def raised() -> Iterator[tuple[str, str, ast.Call]]:
    """Place, class and call of each error that is made."""
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                yield f"{file}:{node.lineno}", node.func.id, node


RAISED = list(raised())


def hint_of(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "hint"), None)


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in an expression; a value in a text stands as X."""
    for child in ast.walk(node):
        if isinstance(child, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in child.values)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def test_all_errors_are_walked() -> None:
    assert len(RAISED) > 500
    assert {name for _, name, _ in RAISED} >= set(CLASSES) - {"RecfxError", "IdError"}


def test_every_error_is_raised_with_a_next_step() -> None:
    without = [place for place, name, call in RAISED if hint_of(call) is None and name not in COMMON]
    assert not without, without


def test_no_next_step_is_empty_and_none_repeats_the_fault() -> None:
    for place, _, call in RAISED:
        hint, what = hint_of(call), call.args[0] if call.args else None
        if isinstance(hint, ast.Constant):
            assert isinstance(hint.value, str), place
            assert len(hint.value.split()) > 1, place
            assert not (isinstance(what, ast.Constant) and what.value == hint.value), place


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_next_step_in_its_text(name: str) -> None:
    error = CLASSES[name]("the fault", where="here")
    assert error.hint
    assert str(error) == f"the fault\n  where: here\n  next:  {error.hint}"
    assert error.in_one_line == "the fault;  where: here"
    own = CLASSES[name]("the fault", hint="do this")
    assert str(own) == "the fault\n  next:  do this"
    assert own.in_one_line == "the fault"


def arguments() -> set[str]:
    """The names of all parameters of functions and fields of classes."""
    names: set[str] = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                spec = node.args
                names |= {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


#: Arguments of torch, of the environment, and of the examples in hints.
OTHERS = {
    "validate_args",
    "is_causal",
    "tgt_is_causal",
    "memory_is_causal",
    "option",
    "device",
    "memory_format",
    "operators",
}


def named(text: str) -> set[str]:
    """Arguments that a hint names: `name=`."""
    return set(re.findall(r"(?<![\w.{-])([a-z][a-z_0-9]*)=(?!=)", text))


def test_hints_name_arguments_that_exist() -> None:
    known = arguments() | OTHERS
    wrong = [
        (place, sorted(named(text) - known))
        for place, _, call in RAISED
        if (hint := hint_of(call)) is not None
        for text in texts(hint)
        if named(text) - known
    ]
    assert not wrong, wrong


def test_hints_about_optimize_name_its_arguments() -> None:
    parameters = set(inspect.signature(recfx.optimize).parameters)
    wrong: list[Any] = []
    for place, _, call in RAISED:
        for text in texts(call):
            for arguments_of in re.findall(r"optimize\(([^()]*)\)", text):
                wrong += [(place, name) for name in named(arguments_of) - parameters]
            wrong += [(place, name) for name in re.findall(r"\b([a-z_]+)= to optimize", text) if name not in parameters]
    assert not wrong, wrong
