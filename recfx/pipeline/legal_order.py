"""An order in which passes can run, for the error that refuses the order they were written in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from recfx.errors import PipelineError
from recfx.pipeline.base import Pass
from recfx.pipeline.registry import registered

Violations = Callable[[Sequence[Pass]], "list[str]"]


def legal_order(passes: Sequence[Pass], properties: Collection[str], violations: Violations) -> list[Pass] | None:
    """The passes in an order without violations, as near to the written one as possible; None where none was found.

    Registered passes that establish what is missing are added. A pass directly behind its equal, which would do nothing, is left out.

    Args:
        passes: The passes as written.
        properties: What is established before the first one.
        violations: What is wrong with an order.
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
    """Whether a pass can run now without harm to the others."""
    spec = item.spec
    if not spec.requires <= held or spec.forbids & held:
        return False
    others = [other.spec for other in left if other is not item]
    establishes = spec.establishes - held
    return not any(establishes & other.forbids or spec.invalidates & held & other.requires for other in others)


def _establishers(passes: Sequence[Pass], properties: Collection[str]) -> list[Pass]:
    """A registered pass for each property that a pass requires and none of them establishes."""
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
    """The pass with its default options; None where it has an option that must be given."""
    try:
        return cls()
    except (TypeError, PipelineError):
        return None
