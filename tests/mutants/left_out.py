"""Code that is not mutated, because no test of answers can tell the mistake from the source.

Each function names one such kind: text for people, checks of the program itself, code for type checkers, and numbers that only change how
long something takes or how it looks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

#: Calls whose arguments are text for people.
_TOLD = re.compile(r"(?:\w+\.)*\w*(?:Error|Warning)|warnings\.warn|_?log\.\w+")
_LOGGED = re.compile(r"_?log\.\w+")

#: Keywords of any call that no answer depends on: text for people and the form of text; limits of time; and devices,
#: because tests run where all tensors are on the CPU.
_KEYWORDS = frozenset(
    (
        "help",
        "metavar",
        "description",
        "epilog",
        "hint",
        "stacklevel",
        "encoding",
        "indent",
        "timeout",
        "daemon",
        "device",
        "highlight",
        "maxsize",
    )
)

#: Function -> its keywords that only check the program itself, or are shown: equal lengths of a zip, no writes to a dataclass, the
#: name of what Hypothesis draws.
_CHECKS = {
    "zip": {"strict"},
    "draw": {"label"},
    "dataclass": {"frozen", "slots", "repr"},
    "dataclasses.dataclass": {"frozen", "slots", "repr"},
}

#: Contexts that show progress on a terminal; what they give is called with the text of a stage, or with a number of finished items.
_PROGRESS = ("progress", "stage_line")

#: Names of constants that say how much is computed at a time, how often or how long something is measured, or how much an error lists.
_EFFORT = re.compile(
    r"BLOCK|CHUNK|RESAMPLES|REPEATS|SAMPLES?$|_SECONDS|PAUSE|WARM_UP|_NS$|_S$|LISTED|AT_ONCE|SPREAD|COPIED|LONG_CALL"
)
#: Names of limits. Large limits are left out: no test can afford to reach them, and one more or twice as many is as good.
_LIMIT = re.compile(r"MOST|LARGEST|LEAST|MAX|FEWEST|WIDEST|FEW$|DEPTH")
_LARGE = 1000

#: Folders and files whose constants weigh measured or expected times, which choose among plans of equal results.
_WEIGHED = (
    "recfx/cost/",
    "recfx/placement/",
    "recfx/driver/competition.py",
    "recfx/driver/cost_model.py",
    "recfx/driver/measure.py",
    "recfx/driver/profile.py",
    "recfx/driver/torch_operators.py",
    "recfx/serve/engine/hand_over.py",
    "recfx/serve/engine/variants.py",
    "targets/tensorrt/times.py",
)
#: Files of expected times of steps of the processor, and of the modules that a calibration measures: all their numbers are left out.
_EXPECTED = ("recfx/cost/priors.py", "recfx/cost/default_machine.py", "recfx/cost/calibration_modules.py")
#: Files that draw pictures: their constants, and sums with them, are sizes and places in pixels.
_DRAWN = (
    "recfx/driver/svg.py",
    "recfx/driver/drawing.py",
    "recfx/learn/recipes/plot.py",
    "recfx/serve/simulator/plot.py",
)

#: The operands of an operator in both orders.
_ORDERS = re.compile(r"\((\w+)\.args\[:2\], \1\.args\[1::-1\]\)")

#: Fields of a layer that are positions of parameters, or -1: the first parameter is a weight, so none of these is 0.
_POSITIONS = frozenset(("bias", "scale", "inner_scale", "factor", "norm_weight", "norm_bias"))

_ZOO, _KIT = "recfx/zoo/", "recfx/testing/"


def left_out(file: str, tree: ast.Module) -> set[ast.AST]:
    """The nodes of a file that are not mutated; a statement among them is not removed either."""
    kinds: list[Callable[[str, ast.Module], Iterator[ast.AST]]] = [
        _messages, _keywords, _assertions, _for_type_checkers, _progress, _constants, _default_sizes, _unread_defaults, _both_orders,
        _drawn_numbers, _places, _positions,
    ]  # fmt: skip
    return {node for kind in kinds for node in kind(file, tree)} | _false_returns(tree) | _success(tree)


def _messages(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Errors, warnings and log lines. The statement that warns is still removed, a log line is not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _TOLD.fullmatch(ast.unparse(node.func))):
            yield from ast.walk(node)
        elif _is_log_line(node):
            yield node


def _is_log_line(node: ast.AST) -> bool:
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return called and bool(_LOGGED.fullmatch(ast.unparse(node.value.func)))  # type: ignore[attr-defined]


def is_left_out(call: ast.Call, keyword: ast.keyword) -> bool:
    """Whether no answer depends on a keyword of a call."""
    return keyword.arg in _KEYWORDS or keyword.arg in _CHECKS.get(ast.unparse(call.func), ())


def _keywords(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if is_left_out(node, keyword):
                    yield keyword.value


def _assertions(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """`assert` states what always holds, so a weaker statement holds, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield from ast.walk(node)


def _for_type_checkers(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Blocks under `if TYPE_CHECKING:`, which never run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield node
            yield from (part for child in node.body for part in ast.walk(child))


def _progress(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Lines of progress on a terminal."""
    for block in ast.walk(tree):
        for item in block.items if isinstance(block, ast.With) else ():
            shown = isinstance(item.context_expr, ast.Call) and ast.unparse(item.context_expr.func) in _PROGRESS
            if shown and isinstance(item.optional_vars, ast.Name):
                for node in ast.walk(block):
                    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.func
                    if isinstance(called, ast.Name) and called.id == item.optional_vars.id:
                        yield from ast.walk(node)


def _constants(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Numbers of a module that change only how long something takes, how much it may be, or how it looks."""
    if file in _EXPECTED:
        yield from (node for node in ast.walk(tree) if _is_number(node))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        names = [name.id for name in ast.walk(target) if isinstance(name, ast.Name)] if target is not None else []
        if all(_only_tunes(file, name, node.value) for name in names):
            yield from ast.walk(node.value)


def _only_tunes(file: str, name: str, value: ast.expr) -> bool:
    if not name.isupper():
        return False
    large = _LIMIT.search(name) and all(_size(part) >= _LARGE for part in getattr(value, "elts", [value]))
    return bool(_EFFORT.search(name) or large or file.startswith(_WEIGHED) or file in _DRAWN)


def _size(value: ast.expr) -> float:
    """The magnitude of arithmetic on numbers; 0 for anything else."""
    if all(
        isinstance(n, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop) or _is_number(n) for n in ast.walk(value)
    ):
        return abs(float(eval(compile(ast.Expression(value), "", "eval"))))
    return 0.0


def _default_sizes(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Default sizes of the reference models, where a layer of another width is as good a model, and of the time to measure."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            for one, default in _with_defaults(node):
                if file.startswith(_ZOO) or (file.startswith(_WEIGHED) and one.arg == "seconds"):
                    yield from ast.walk(default)


def _with_defaults(given: ast.arguments) -> list[tuple[ast.arg, ast.expr]]:
    """The parameters with a default, each with its default."""
    plain = [*given.posonlyargs, *given.args]
    named = [*zip(plain[len(plain) - len(given.defaults) :], given.defaults, strict=True)]
    keyed = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return named + [(one, default) for one, default in keyed if default is not None]


def _unread_defaults(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Defaults of parameters that a function has for its signature alone and never reads, such as those of an operator."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        read = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
        named = _with_defaults(function.args)
        yield from (part for one, default in named if one.arg not in read for part in ast.walk(default))


def _both_orders(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """The bounds in `(x.args[:2], x.args[1::-1])`, the operands of an operator of two operands in both orders: there is no third one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and _ORDERS.fullmatch(ast.unparse(node)):
            yield node.elts[0].slice.upper  # type: ignore[attr-defined]
            yield node.elts[1].slice.lower  # type: ignore[attr-defined]


def _drawn_numbers(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Bounds of numbers and lists that the public strategies draw: other draws test the same."""
    if file.startswith(_KIT):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("st."):
                yield from (part for part in ast.walk(node) if _is_number(part))


def _places(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Arithmetic with the sizes of a picture."""
    for node in ast.walk(tree) if file in _DRAWN else ():
        if isinstance(node, ast.BinOp) and any(isinstance(n, ast.Name) and n.id.isupper() for n in ast.walk(node)):
            yield from ast.walk(node)


def _false_returns(tree: ast.AST) -> set[ast.AST]:
    """The statements `return False` of functions of type bool: None is false, too. The constant still becomes True."""
    functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    bools = [f for f in functions if f.returns is not None and ast.unparse(f.returns) == "bool"]
    return {
        node
        for function in bools
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is False
    }


def _success(tree: ast.AST) -> set[ast.AST]:
    """The statements `return 0` of commands: Python ends with the same status for None. The constant still becomes 1."""
    functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.returns is not None]
    commands = [
        f
        for f in functions
        if ast.unparse(f.returns) == "int"  # type: ignore[arg-type]
        and any(a.annotation is not None and ast.unparse(a.annotation) == "argparse.Namespace" for a in f.args.args)
    ]
    return {
        node
        for function in commands
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value == 0
    }


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _positions(file: str, tree: ast.Module) -> Iterator[ast.AST]:
    """Whether a layer has a parameter: its position, a field or a parameter of type int, is negative or above 0."""
    typed = [a for a in ast.walk(tree) if isinstance(a, ast.arg) and a.annotation is not None]
    integers = {a.arg for a in typed if a.arg in _POSITIONS and ast.unparse(a.annotation) == "int"}  # type: ignore[arg-type]
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.GtE):
            left = node.left
            field = isinstance(left, ast.Attribute) and left.attr in _POSITIONS
            read = field or (isinstance(left, ast.Name) and left.id in integers)
            if read and ast.unparse(node.comparators[0]) == "0":
                yield from (node, node.comparators[0])
