"""Validation of a pipeline as a whole, before anything runs: every violation is found, nothing is reordered."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from recfx.errors import PipelineError
from recfx.pipeline.base import Pass
from recfx.pipeline.legal_order import legal_order
from recfx.pipeline.registry import registered
from recfx.pipeline.spec import NEEDED


def violations(passes: Sequence[Pass], properties: Collection[str], resources: Collection[str] = ()) -> list[str]:
    """The reasons why these passes cannot run in this order; empty if they can.

    Args:
        passes: The passes, in order.
        properties: The properties of the program before the first pass.
        resources: The names in `PassSpec.needs` whose data are available.
    """
    found: list[str] = []
    held = set(properties)
    for index, item in enumerate(passes):
        spec = item.spec
        place = f"{spec.name} (number {index + 1})"
        for missing in sorted(spec.requires - held):
            found.append(f"{place} requires {missing!r}, {_who_establishes(missing, passes, index)}")
        for present in sorted(spec.forbids & held):
            found.append(
                f"{place} must not run once the program is {present!r}; {_before_establisher(present, passes, index)}"
            )
        for need in sorted(spec.needs - set(resources)):
            found.append(f"{place} needs {need}; {NEEDED[need]}")
        if spec.idempotent and index and passes[index - 1] == item:
            found.append(f"{place} stands twice in a row; the second does nothing")
        held = (held - spec.invalidates) | spec.establishes
    return found


def require_valid(passes: Sequence[Pass], properties: Collection[str], resources: Collection[str] = ()) -> None:
    """Raises `PipelineError` listing every violation."""
    found = violations(passes, properties, resources)
    if found:
        raise PipelineError(
            f"the pipeline cannot run as written: {len(found)} violation(s)\n" + "\n".join(f"  - {v}" for v in found),
            where=",".join(map(str, passes)),
            hint=_next_step(passes, properties, resources),
        )


def _next_step(passes: Sequence[Pass], properties: Collection[str], resources: Collection[str]) -> str:
    """The next step for the user: an order that runs, the missing data, or both."""
    needed = sorted(set[str]().union(*(item.spec.needs for item in passes)) - set(resources))
    steps = [NEEDED[need] for need in needed]
    given = {*resources, *needed}
    if violations(passes, properties, given):
        order = legal_order(passes, properties, lambda found: violations(found, properties, given))
        steps.append(
            f"an order that runs: {','.join(map(str, order))}"
            if order is not None
            else "remove one of the passes that exclude each other: these passes cannot run in any order"
        )
    return "; ".join(steps)


def _before_establisher(name: str, passes: Sequence[Pass], index: int) -> str:
    """The advice for a pass that forbids a property which the program has at a position."""
    earlier = [(i, p.spec.name) for i, p in enumerate(passes[:index]) if name in p.spec.establishes]
    if earlier:
        return f"move it before {earlier[0][1]} (number {earlier[0][0] + 1})"
    return "the given program has this property: run the pass on an earlier program"


def _who_establishes(name: str, passes: Sequence[Pass], index: int) -> str:
    later = [p.spec.name for p in passes[index + 1 :] if name in p.spec.establishes]
    if later:
        return f"which only {later[0]} establishes, later in the pipeline; move {later[0]} before it"
    earlier = [p.spec.name for p in passes[:index] if name in p.spec.establishes]
    if earlier:
        return f"which {earlier[-1]} established but a pass in between invalidated"
    known = sorted(item.spec.name for item in registered().values() if name in item.spec.establishes)
    hint = f"; add {' or '.join(known)} before it" if known else ""
    return f"which no pass in the pipeline establishes{hint}"
