"""The table of steps that random graphs are made of, each with the operators it may add."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from recfx.testing.pool import Pool

Run = Callable[[Pool, Any], None]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a random graph.

    Attributes:
        run: Adds operators and keeps their results; called with the pool and Hypothesis's `draw`.
        operators: The operators it adds, or chooses among.
    """

    run: Run
    operators: frozenset[Any]

    def __call__(self, pool: Pool, draw: Any) -> None:
        self.run(pool, draw)


#: Name -> step.
STEPS: dict[str, Step] = {}


def step(name: str, *operators: Any) -> Callable[[Run], Run]:
    """Registers a function as a step.

    Args:
        name: The step's name.
        *operators: The operators it adds, or chooses among.
    """

    def decorate(run: Run) -> Run:
        add_step(name, operators, run)
        return run

    return decorate


def add_step(name: str, operators: Iterable[Any], run: Run) -> None:
    """Registers a step.

    Raises:
        ValueError: Another step has the name.
    """
    if name in STEPS:
        raise ValueError(f"two steps are called {name!r}")
    STEPS[name] = Step(run, frozenset(operators))


def operator_step(target: Any, run: Callable[[Pool, Any, Any], None]) -> None:
    """Registers a step named after one operator, which `run` gets as its third argument."""
    packet, overload = str(target).split(".")[1:3]
    name = packet.replace("_", "-")
    if name in STEPS:
        name = f"{name}-{overload.replace('_', '-').lower()}"
    add_step(name, [target], lambda pool, draw: run(pool, draw, target))
