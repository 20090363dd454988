"""The operators of a compiled model that torch runs: the reason, and the share of the time of a call."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.driver.placed import Placed
from recfx.ir.provenance import module_path
from recfx.ir.region import Region
from recfx.targets import Lowered
from recfx.targets.base import is_operator

#: The longest time for all runs of one region in seconds, and the least and the largest number of runs.
_SECONDS = 0.1
_LEAST, _MOST = 3, 50


@dataclasses.dataclass(frozen=True)
class TorchOperator:
    """One operator that torch runs.

    Attributes:
        operator: "aten.sort.default".
        reason: Why no other backend runs it.
        module: The path of the user's module that calls it; "" for the top level.
        share: Its share of the time of a call on the example inputs; None if it was not measured.
    """

    operator: str
    reason: str
    module: str = ""
    share: float | None = None


def torch_operators(placed: Placed) -> tuple[TorchOperator, ...]:
    """The operators of a lowered program that torch runs, in order."""
    return tuple(operator for lowered in placed.regions for operator in _of_region(lowered))


def _of_region(lowered: Lowered) -> list[TorchOperator]:
    nodes = _nodes(lowered)
    return [
        TorchOperator(name, why, module_path(node) if node is not None else "")
        for node, (name, why) in zip(nodes, lowered.left, strict=True)
    ]


def _nodes(lowered: Lowered) -> list[fx.Node | None]:
    """The nodes of the operators that torch runs in a region; None for an operator whose node is not found by its name.

    torch runs all operators of an eager region. In other regions it runs the operators in the body that are not calls of the backend.
    """
    held = {node.name for node in lowered.body.graph.nodes} if isinstance(lowered.body, Region) else None
    nodes = [n for n in lowered.region.graph.nodes if is_operator(n) and (held is None or n.name in held)]
    found: list[fx.Node | None] = []
    for name, _ in lowered.left:
        at = next((i for i, node in enumerate(nodes) if str(node.target) == name), None)
        found.append(nodes[at] if at is not None else None)
        nodes = nodes[at + 1 :] if at is not None else nodes
    return found


def with_shares(placed: Placed, leaves: Sequence[Any]) -> tuple[TorchOperator, ...]:
    """The operators of `torch_operators` with their shares of the time, measured region by region and operator by operator.

    Args:
        placed: The lowered program.
        leaves: Its flat inputs.
    """
    values = {node.name: value for node, value in zip(placed.program.placeholders(), leaves, strict=True)}
    found: list[tuple[TorchOperator, float]] = []
    elsewhere = 0.0
    with torch.no_grad():
        for region, lowered in zip(placed.split.regions, placed.regions, strict=True):
            given = [values[name] for name in region.inputs]
            values |= dict(zip(region.outputs, lowered.run(*given), strict=True))
            seconds = _operator_seconds(lowered, given)
            names = [node.name if node is not None else "" for node in _nodes(lowered)]
            found += [(item, seconds.get(name, 0.0)) for item, name in zip(_of_region(lowered), names, strict=True)]
            if not isinstance(lowered.body, Region):
                elsewhere += max(_median(lowered.run, given) - sum(seconds.values()), 0.0)
            else:
                elsewhere += sum(seconds.values()) - sum(seconds.get(name, 0.0) for name in names)
    total = elsewhere + sum(seconds for _, seconds in found)
    return tuple(dataclasses.replace(item, share=seconds / total if total else 0.0) for item, seconds in found)


def _median(run: Callable[..., Any], given: Sequence[Any]) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < _SECONDS and len(times) < _MOST):
        start = time.perf_counter()
        run(*given)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _operator_seconds(lowered: Lowered, given: Sequence[Any]) -> dict[str, float]:
    """Name of each node in the body of a region -> median seconds. For a body that is a function, only the nodes that torch runs."""
    if not isinstance(lowered.body, Region) and not lowered.left:
        return {}
    clock = _Clock((lowered.body if isinstance(lowered.body, Region) else lowered.region).module)
    start = time.perf_counter()
    for runs in range(1, _MOST + 1):
        clock.run(*given)
        if runs >= _LEAST and time.perf_counter() - start > _SECONDS:
            break
    names = {node.name for node in _nodes(lowered) if node is not None}
    wanted = clock.times if isinstance(lowered.body, Region) else {n: t for n, t in clock.times.items() if n in names}
    return {name: statistics.median(times) for name, times in wanted.items()}


class _Clock(fx.Interpreter):
    """Runs a graph node by node and keeps the time of each operator; sizes and parts of tuples are not counted."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.times: dict[str, list[float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        start = time.perf_counter()
        result = getattr(self, n.op)(n.target, args, kwargs)
        if is_operator(n):
            self.times.setdefault(n.name, []).append(time.perf_counter() - start)
        return result


def described(operators: Sequence[TorchOperator]) -> list[str]:
    """A line for each kind of operator with its number, modules, reason and share; the largest share comes first."""
    groups: dict[tuple[str, str], list[TorchOperator]] = {}
    for item in operators:
        groups.setdefault((item.operator, item.reason), []).append(item)
    ordered = sorted(groups.items(), key=lambda group: -sum(item.share or 0.0 for item in group[1]))
    return [_line(name, reason, items) for (name, reason), items in ordered]


def _line(name: str, reason: str, items: Sequence[TorchOperator]) -> str:
    times = f" ({len(items)} times)" if len(items) > 1 else ""
    modules = Counter(item.module for item in items if item.module)
    names = [*modules][:3] + (["..."] if len(modules) > 3 else [])
    place = f" in {', '.join(names)}" if names else ""
    return f"{name}{times}{place}: {reason}{in_percent(items)}"


def in_percent(items: Sequence[TorchOperator]) -> str:
    """The operators' share of the time, as a text that follows their names; "" if it was not measured."""
    shares = [item.share for item in items]
    if not shares or any(share is None for share in shares):
        return ""
    return f", {sum(share or 0.0 for share in shares):.0%} of the time"
