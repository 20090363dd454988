"""The mutants of a source file: each has one small, common mistake."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from tests.mutants.left_out import is_left_out, left_out

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
}


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One mutant.

    Attributes:
        file: The file, relative to the repository.
        line: The line of the mistake, from 1.
        text: The original line, stripped.
        what: The change, in words.
        node: The index of the changed node, in the order of `ast.walk`.
        change: The index among the node's changes.
    """

    file: str
    line: int
    text: str
    what: str
    node: int
    change: int

    @property
    def key(self) -> str:
        """The key in the list of equivalent mutants, which does not depend on line numbers."""
        return f"{self.file} | {self.text} | {self.what}"

    @property
    def room(self) -> str:
        """The folder of the file."""
        return str(Path(self.file).parent)

    def tree(self, root: Path) -> ast.Module:
        """The mutated source; every node stays on its line."""
        tree = ast.parse((root / self.file).read_text())
        node = next(n for i, n in enumerate(ast.walk(tree)) if i == self.node)
        list(_changes(node))[self.change][1](node)
        return ast.fix_missing_locations(_SingleConditions().visit(tree))

    def function(self, root: Path) -> int | None:
        """The first line of the innermost function with the mistake; None for a mistake in code that runs at import."""
        tree = ast.parse((root / self.file).read_text())
        node = next(n for i, n in enumerate(ast.walk(tree)) if i == self.node)
        return _innermost(tree, node, None)

    def words(self, root: Path) -> frozenset[str]:
        """The name of the function with the mistake, and the operators that its decorators name; empty for code that runs at import."""
        line = self.function(root)
        for node in ast.walk(ast.parse((root / self.file).read_text())):
            if isinstance(node, ast.FunctionDef) and first_line(node) == line:
                parts = [part for given in node.decorator_list for part in ast.walk(given)]
                owners = [part.value for part in parts if isinstance(part, ast.Attribute)]
                return frozenset(
                    {node.name.strip("_"), *(one.attr for one in owners if isinstance(one, ast.Attribute))}
                )
        return frozenset()

    def names(self, root: Path) -> frozenset[str]:
        """The names in the function with the mistake, its own among them; empty for code that runs at import."""
        line = self.function(root)
        functions = [
            node for node in ast.walk(ast.parse((root / self.file).read_text())) if isinstance(node, FUNCTIONS)
        ]
        found = {getattr(function, "name", "") for function in functions if first_line(function) == line}
        for node in (part for function in functions if first_line(function) == line for part in ast.walk(function)):
            if isinstance(node, ast.Attribute | ast.Name):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        return frozenset(found - {""})


class _SingleConditions(ast.NodeTransformer):
    """Replaces `and` and `or` of one condition, which Python does not compile, by the condition."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        return node if len(node.values) > 1 else node.values[0]


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines."""
    text = (root / file).read_text()
    lines, tree = text.splitlines(), ast.parse(text)
    found = []
    ignored = left_out(file, tree)
    for index, node in enumerate(ast.walk(tree)):
        if not hasattr(node, "lineno") or _is_text(node) or node in ignored:
            continue
        kept = _kept_statements(node, ignored)
        for number, (what, _) in enumerate(_changes(node)):
            if what in kept:
                continue
            found.append(Mutant(file, node.lineno, lines[node.lineno - 1].strip(), what, index, number))
    return sorted(found, key=lambda m: (m.line, m.what))


def first_line(function: ast.AST) -> int:
    """The first line of a function for Python: the line of its first decorator, if it has one."""
    decorators = getattr(function, "decorator_list", [])
    return min([function.lineno, *(d.lineno for d in decorators)])  # type: ignore[attr-defined]


def _innermost(tree: ast.AST, wanted: ast.AST, function: int | None) -> int | None:
    """The first line of the function around a node; defaults and decorators of a function belong to the code around the
    function."""
    if tree is wanted:
        return function
    own = tree.body if isinstance(tree, FUNCTIONS) else []
    inside = {id(child) for child in (own if isinstance(own, list) else [own])}
    for child in ast.iter_child_nodes(tree):
        if any(node is wanted for node in ast.walk(child)):
            return _innermost(child, wanted, first_line(tree) if id(child) in inside else function)
    raise LookupError(f"the tree has no such node: {ast.dump(wanted)}")


def _is_text(node: ast.AST) -> bool:
    """Docstrings and annotations do not change the behaviour, and messages are only for people."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """(description, function that makes it) for each mistake that fits a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        swap = _SWAPS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} becomes {swap.__name__}", lambda n: n.ops.__setitem__(0, swap())
    elif isinstance(node, ast.BinOp) and type(node.op) in _SWAPS and not _of_types(node):
        other = _SWAPS[type(node.op)]
        yield f"{type(node.op).__name__} becomes {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} becomes {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        # One more than a large float is within the tolerance of most comparisons.
        other = node.value * 2 if isinstance(node.value, float) and abs(node.value) > 100 else node.value + 1
        yield f"{node.value} becomes {other}", lambda n: setattr(n, "value", other)
    elif isinstance(node, ast.BoolOp):
        kind = "and" if isinstance(node.op, ast.And) else "or"
        for place in range(len(node.values)):
            yield f"`{kind}` without its condition {place + 1}", lambda n, at=place: n.values.pop(at)
    elif isinstance(node, ast.If | ast.IfExp):
        yield "the condition is negated", _negate
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "`not` is dropped", lambda n: (setattr(n, "op", ast.Not()), setattr(n, "operand", _not(n.operand)))
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield "returns None", lambda n: setattr(n, "value", ast.Constant(None))
    elif isinstance(node, ast.Call):
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None and not is_left_out(node, keyword):
                yield f"without the keyword {keyword.arg}", lambda n, at=place: n.keywords.pop(at)
    elif isinstance(node, ast.FunctionDef | ast.For | ast.If | ast.With):
        pass
    if isinstance(node, ast.FunctionDef | ast.For | ast.If | ast.With):
        for place, child in enumerate(node.body):
            if (isinstance(child, ast.Expr) and isinstance(child.value, ast.Call)) or isinstance(child, ast.AugAssign):
                yield _removal(child), lambda n, at=place: n.body.__setitem__(at, ast.Pass())


def _removal(statement: ast.stmt) -> str:
    return f"without `{ast.unparse(statement)[:60]}`"


def _kept_statements(node: ast.AST, ignored: Container[ast.AST]) -> set[str]:
    """The removals of statements of a block that are not mutated."""
    body = getattr(node, "body", None)
    return {_removal(child) for child in (body if isinstance(body, list) else ()) if child in ignored}


def _negate(node: Any) -> None:
    node.test = _not(node.test)


def _not(value: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), value)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _of_types(node: ast.BinOp) -> bool:
    """Whether an operation is arithmetic on strings only."""
    return any(
        isinstance(side, ast.JoinedStr | ast.Constant) and not _is_number(side) for side in (node.left, node.right)
    )


def _is_number(side: ast.expr) -> bool:
    return isinstance(side, ast.Constant) and isinstance(side.value, int | float)
