"""Placements that the user gives: module path, operator or region -> backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from recfx.driver.placed import Placed
from recfx.errors import InputError, TargetError
from recfx.ir.program import Program
from recfx.ir.provenance import module_path
from recfx.ir.region import joins_any
from recfx.targets import BACKENDS, Backend, Verdict, resolve

#: The most names that an error lists.
_LISTED = 12


def pinned_backends(pins: Mapping[str, str]) -> list[Backend]:
    """The backends that pins name.

    Raises:
        TargetError: A backend is unknown or cannot run here.
    """
    for name in pins.values():
        if name not in BACKENDS:
            raise TargetError(
                f"placement= names the unknown backend {name!r}", hint=f"known backends: {', '.join(BACKENDS)}"
            )
    return resolve(list(dict.fromkeys(pins.values()))) if pins else []


def pinned(pins: Mapping[str, str], placed: Placed) -> dict[str, str]:
    """Name of an operator -> the backend that the user gives it.

    An operator's own pin counts before those of its modules, the longest path first, and these before that of its region.

    Args:
        pins: Module path, operator or region of `placed` ("region 0") -> backend.
        placed: The plan without pins.

    Raises:
        InputError: A pin names nothing in the program.
    """
    operators = [n for n in placed.program.graph.nodes if n.op == "call_function" and not joins_any(n)]
    regions = {f"region {index}": set(placed.split.members(index)) for index in range(len(placed.regions))}
    found: dict[str, str] = {}
    names = {node.name for node in operators}
    for pin in sorted(pins, key=lambda pin: (pin in names, pin not in regions, len(pin))):
        held = [n for n in operators if n.name in regions.get(pin, ()) or n.name == pin or _within(n, pin)]
        if not held:
            raise InputError(
                f"placement= names {pin!r}, which is not a module, an operator or a region with operators",
                hint=f"names that exist: {_names(placed.program, [*regions])}",
            )
        found |= {node.name: pins[pin] for node in held}
    return found


def refused_pins(
    wanted: Mapping[str, str], program: Program, verdicts: Mapping[str, Mapping[fx.Node, Verdict]]
) -> list[str]:
    """A notice for each backend that refuses operators that the user gave it."""
    reasons: dict[str, dict[str, str]] = {}
    for node in program.graph.nodes:
        if node.name in wanted:
            verdict = verdicts[wanted[node.name]][node]
            if not verdict:
                reasons.setdefault(wanted[node.name], {})[verdict.reason] = str(node.target)
    return [
        f"placement= gives {target} to the {backend} backend, which refuses it, so another backend runs it: {reason}"
        for backend, of in reasons.items()
        for reason, target in of.items()
    ]


def _within(node: fx.Node, path: str) -> bool:
    """Whether a node comes from a module or from a module within it."""
    own = module_path(node)
    return bool(path) and (own == path or own.startswith(f"{path}."))


def _names(program: Program, regions: Sequence[str]) -> str:
    """Modules and regions of a program, in order; the first few of them."""
    paths = dict.fromkeys(filter(None, (module_path(n) for n in program.graph.nodes if n.op == "call_function")))
    names = [*paths, *regions]
    return ", ".join(map(repr, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")
