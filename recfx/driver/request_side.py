"""`RequestSide`: what a program computes from its request inputs alone, apart from what it computes for each candidate.

A call whose candidates are divided among threads computes it once. The program is cut after all passes: `hoist-requests` has moved as much
as possible to the request's side. Both sides are lowered by the backend that runs the program, and share its tables and packed weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.driver.plans import Plans
from recfx.errors import RecfxError
from recfx.ir.bags import Bags
from recfx.ir.program import Program
from recfx.ir.region import Region, region_of
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names
from recfx.runtime.flat import flat_function
from recfx.targets import BACKENDS, Lowered

#: The largest difference between both ways to compute drawn inputs: absolute, and as a share of the value.
_ABSOLUTE, _RELATIVE = 1e-5, 1e-4


@dataclasses.dataclass(frozen=True)
class RequestSide:
    """The two sides of a program.

    Attributes:
        request: Computes the values of the request side from the leaves `request_leaves`.
        request_leaves: Positions of leaves.
        rows_of: Computes outputs from the values of the request side, the values `row_values` first and then the leaves `row_leaves`.
        row_values: Positions among the values of the request side.
        row_leaves: Positions of leaves.
        returned: For each output of the program, whether it is a value of the request side, and its position there or in `rows_of`.
    """

    request: Callable[..., Sequence[Any]]
    request_leaves: tuple[int, ...]
    rows_of: Callable[..., Sequence[Any]]
    row_values: tuple[int, ...]
    row_leaves: tuple[int, ...]
    returned: tuple[tuple[bool, int], ...]

    def values(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """The values of the request side.

        Args:
            leaves: The flat inputs of the whole call.
        """
        return self.request(*(leaves[position] for position in self.request_leaves))

    def rows(self, leaves: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """The flat outputs of some rows.

        Args:
            leaves: The flat inputs of these rows.
            values: What `values` returned for the whole call.
        """
        found = self.rows_of(*(values[at] for at in self.row_values), *(leaves[at] for at in self.row_leaves))
        return [values[at] if of_request else found[at] for of_request, at in self.returned]


def request_side(plans: Plans, run: Callable[..., Any], example: Sequence[Any]) -> RequestSide | str:
    """The two sides of a compiled model, or the reason why it is not cut.

    Args:
        plans: Its plans.
        run: Flat inputs -> flat outputs.
        example: Flat inputs that both ways to compute the outputs are compared on.
    """
    program = plans.program
    members, others = _sides(program)
    if not members:
        return "nothing is computed from request inputs alone"
    used = [plans.placed[use] for use in plans.uses]
    names = {name for placed in used for name in placed.backends}
    if len(names) > 1 or not names <= {"native", "eager"}:
        return f"the model runs on {', '.join(sorted(names))}"
    whole = dataclasses.replace(Region.whole(program), shared=used[0].split.regions[0].shared)
    try:
        made = _lowered(program, whole, (members, others), names.pop())
    except RecfxError as error:
        return f"the sides cannot be lowered: {error.in_one_line}"
    if isinstance(made, str):
        return made
    want, found = run(*example), made.rows(example, made.values(example))
    if not all(_same(*pair) for pair in zip(want, found, strict=True)):
        return "the sides compute other outputs than the whole program"
    return made


def _sides(program: Program) -> tuple[list[fx.Node], list[fx.Node]]:
    """The operators that no candidate reaches, empty if they read weights only, and those that are computed for each candidate."""
    leaves = program.signature.leaves
    of_rows = {
        node
        for node, leaf in zip(program.placeholders(), leaves, strict=True)
        if any(BATCH in dimension_names(size) for size in leaf.shape if isinstance(size, str)) or leaf.value == BATCH
    } | {program.placeholders()[at] for bags in program.bags for at in _leaves_of(bags)}
    requests, members, others = set(program.placeholders()) - of_rows, list[fx.Node](), list[fx.Node]()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if not of_rows.isdisjoint(node.all_input_nodes):
            of_rows.add(node)
            others.append(node)
            continue
        if not requests.isdisjoint(node.all_input_nodes):
            requests.add(node)
        members.append(node)
    return (members if not requests.isdisjoint(members) else []), others


def _leaves_of(bags: Bags) -> tuple[int, ...]:
    return (bags.bounds, *bags.members)


def _lowered(
    program: Program, whole: Region, sides: tuple[list[fx.Node], list[fx.Node]], backend: str
) -> RequestSide | str:
    """Both sides, lowered by a backend.

    Raises:
        RecfxError: The backend cannot run a side alone.
    """
    members, others = sides
    place = {node.name: at for at, node in enumerate(program.placeholders())}
    regions = region_of(whole, members), region_of(whole, others)
    request, rows = regions
    crossing = [node for node in members if node.name in request.outputs]
    if not all(isinstance(node.meta.get("val"), torch.Tensor) for node in crossing):
        return "a size passes from the request side to the candidates"
    returned: list[tuple[bool, int]] = []
    for value in next(iter(reversed(program.graph.nodes))).args[0]:
        if not isinstance(value, fx.Node) or value.name not in (*request.outputs, *rows.outputs):
            return "an output is not computed by an operator"
        side = value.name in request.outputs
        returned.append((side, (request if side else rows).outputs.index(value.name)))
    first = BACKENDS[backend].lower(request)
    known = rows.checked | first.sized.intersection(rows.inputs)
    second = BACKENDS[backend].lower(dataclasses.replace(rows, checked=known))
    crossed = [name for name in rows.inputs if name in request.outputs]
    order = [*crossed, *(name for name in rows.inputs if name not in request.outputs)]
    return RequestSide(
        _runner(first),
        tuple(place[name] for name in request.inputs),
        _in_order(_runner(second), [order.index(name) for name in rows.inputs]),
        tuple(request.outputs.index(name) for name in crossed),
        tuple(place[name] for name in order[len(crossed) :]),
        tuple(returned),
    )


def _runner(lowered: Lowered) -> Callable[..., Sequence[Any]]:
    body = lowered.body
    return flat_function(body) if isinstance(body, Region) else body


def _in_order(run: Callable[..., Sequence[Any]], places: Sequence[int]) -> Callable[..., Sequence[Any]]:
    """A function that takes its inputs in another order; `places` has the place of each input of `run`."""
    if list(places) == list(range(len(places))):
        return run
    return lambda *given: run(*(given[place] for place in places))


def _same(want: Any, found: Any) -> bool:
    if not isinstance(want, torch.Tensor) or not want.is_floating_point():
        return bool(torch.equal(want, found)) if isinstance(want, torch.Tensor) else want == found
    return torch.allclose(found, want, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
