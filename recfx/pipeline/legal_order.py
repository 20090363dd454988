"""Finds an order in which passes can run, for the error that refuses the written order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from recfx.errors import PipelineError
from recfx.pipeline.base import Pass
from recfx.pipeline.registry import registered

Violations = Callable[[Sequence[Pass]], "list[str]"]


def legal_order(passes: Sequence[Pass], properties: Collection[str], violations: Violations) -> list[Pass] | None:
    """The passes in an order without violations, as close to the written order as possible; None if the search finds no such order.

    Registered passes that establish missing properties are added. An idempotent pass directly after an equal one is left out.

    Args:
        passes: The passes in the written order.
        properties: The properties of the program before the first pass.
        violations: Returns the violations of an order.
    """
    left = [*_establishers(passes, properties), *passes]
    held, found = set(properties), list[Pass]()
    while left:
        chosen = next((item for item in left if _may_be_next(item, left, held)), None)
        if chosen is None:
            return None
        left.remove(chosen)
        if not (found and found[-1] == chosen and chosen.spec.idempotent):
            found.append(chosen)
        held = (held - chosen.spec.invalidates) | chosen.spec.establishes
    return found if not violations(found) else None


def _may_be_next(item: Pass, left: Sequence[Pass], held: set[str]) -> bool:
    """Whether a pass can run now, and the other passes can still run after it."""
    spec = item.spec
    if not spec.requires <= held or spec.forbids & held:
        return False
    others = [other.spec for other in left if other is not item]
    establishes = spec.establishes - held
    return not any(establishes & other.forbids or spec.invalidates & held & other.requires for other in others)


def _establishers(passes: Sequence[Pass], properties: Collection[str]) -> list[Pass]:
    """A registered pass for each property that one of the passes requires and the passes do not establish."""
    established = set(properties).union(*(item.spec.establishes for item in passes))
    required = set[str]().union(*(item.spec.requires for item in passes))
    found = []
    for name in sorted(required - established):
        makers = [cls for cls in registered().values() if name in cls.spec.establishes and not cls.spec.needs]
        made = _made(makers[0]) if makers else None
        if made is not None:
            found.append(made)
    return found


def _made(cls: type[Pass]) -> Pass | None:
    """The pass with its default options; None if it has an option without default."""
    try:
        return cls()
    except (TypeError, PipelineError):
        return None
