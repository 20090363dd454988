"""The operators and numbers that a pass looks for, read from its code, so that random graphs hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch

from recfx.pipeline import Pass
from recfx.testing.arguments import TWIN, optional_arguments
from recfx.testing.steps import STEPS

_MAX_DEPTH = 4
_LIBRARY = ("torch", "recfx.ir", "recfx.pipeline", "recfx.testing", "recfx.errors", "recfx.ops", "recfx.formats")


@dataclasses.dataclass(frozen=True)
class Focus:
    """Operators and numbers to draw more often.

    Attributes:
        rooted: Names of the steps that add an operator of the pass's `targets`.
        named: Names of the steps that add an operator that its code names.
        numbers: Numbers in its code.
    """

    rooted: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    numbers: tuple[Any, ...] = ()

    @property
    def operators(self) -> frozenset[Any]:
        """The operators of these steps, without steps that add several operators."""
        return frozenset(t for name in _alone((*self.rooted, *self.named)) for t in STEPS[name].operators)

    def groups(self, every: Sequence[str]) -> list[tuple[str, ...]]:
        """Groups of steps, each as likely as any other, to draw the next step from.

        Args:
            every: The steps to choose from without a focus.
        """
        rooted, named = self.rooted or self.named, self.named or self.rooted
        if not rooted:  # the pass compares nodes of any operator
            return [(TWIN,), (TWIN,), _with_keywords(every), tuple(every)]
        patterns = tuple(name for name in {*rooted, *named} if len(STEPS[name].operators & self.operators) > 1)
        groups = [_alone(rooted), _alone(rooted), rooted, _alone(named), tuple(sorted(patterns)), (TWIN,), tuple(every)]
        return [group for group in groups if group]


def _alone(names: Iterable[str]) -> tuple[str, ...]:
    """The steps that add one operator only."""
    return tuple(name for name in names if len(STEPS[name].operators) == 1)


def _with_keywords(names: Iterable[str]) -> tuple[str, ...]:
    """The steps that add an operator with arguments by keyword only."""
    return tuple(
        name
        for name in names
        if any(option.by_keyword for target in STEPS[name].operators for option in optional_arguments(target).values())
    )


def focus_of(passes: Iterable[Pass]) -> Focus:
    """Reads the operators and numbers that passes look for from their targets, their code and their helper functions."""
    rooted: set[Any] = set()
    named: set[str] = set()
    numbers: set[tuple[str, Any]] = set()
    for item in passes:
        rooted |= set(getattr(type(item), "targets", ()))
        functions = [f for f in (type(item).run, getattr(type(item), "rule", None)) if isinstance(f, FunctionType)]
        for function in _reached(functions):
            for code in _codes(function.__code__):
                named |= set(code.co_names)
                numbers |= {(type(n).__name__, n) for n in _numbers(code.co_consts)}
            named |= {_packet(value) for value in _values(function)}
    return Focus(
        rooted=tuple(name for name, made in STEPS.items() if rooted & made.operators),
        named=tuple(name for name, made in STEPS.items() if any(_packet(t) in named for t in made.operators)),
        numbers=tuple(value for _, value in sorted(numbers, key=str)),
    )


def _reached(functions: list[FunctionType]) -> Iterator[FunctionType]:
    """Functions, and the functions outside libraries that their code names, a few calls deep."""
    seen: set[int] = set()
    level = functions
    for _ in range(_MAX_DEPTH):
        further: list[FunctionType] = []
        for function in level:
            if id(function) in seen or (function.__module__ or "").startswith(_LIBRARY):
                continue
            seen.add(id(function))
            yield function
            further += [value for value in _values(function) if isinstance(value, FunctionType)]
        level = further


def _values(function: FunctionType) -> Iterator[Any]:
    """The values of a function's global and closed-over names, with the members of small collections."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    held = [function.__globals__[name] for name in names if name in function.__globals__]
    held += [cell.cell_contents for cell in function.__closure__ or () if cell != type(cell)()]
    for value in held:
        yield value
        if isinstance(value, tuple | list | set | frozenset | dict) and len(value) < 100:
            yield from value
            yield from value.values() if isinstance(value, dict) else ()


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _numbers(constants: Iterable[Any]) -> Iterator[Any]:
    for constant in constants:
        if isinstance(constant, int | float) and abs(constant) < 1e6:
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _numbers(constant)


def _packet(target: Any) -> str:
    """The name of an operator without its namespace and overload; "" for anything else."""
    return str(target).split(".")[1] if isinstance(target, torch._ops.OpOverload) else ""
