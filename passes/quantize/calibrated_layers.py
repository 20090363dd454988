"""What the layers of a program see on calibration data: samples of their inputs, and the means of their products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.program import Program, get_state
from recfx.ops.mlp import product
from recfx.passes.prune.calibration import batches, result_of
from recfx.passes.quantize.layer_kinds import KINDS

#: The most rows of calibration data, in whole batches, that layers are run on.
MOST_ROWS = 1024
#: The most rows of a layer's input that are kept.
_SAMPLE = 1024

#: A matrix of a node: the node, and the number of the product in the operator's reference.
Place = tuple[fx.Node, int]


@dataclass(frozen=True)
class Seen:
    """What a matrix saw.

    Attributes:
        inputs: Rows of its input, float32 [M, K].
        mean: The mean of its product with the input over all rows, with the bias, float64 [N].
    """

    inputs: Tensor
    mean: Tensor


def calibration_rows(program: Program, data: Any) -> list[list[Any]]:
    """The flat inputs of the first batches, `MOST_ROWS` rows or a little more.

    Raises:
        InputError: There is no batch, a batch does not fit the signature, or it has NaN or no row.
    """
    found: list[list[Any]] = []
    rows = 0
    for leaves in batches(program, data):
        sizes = [len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
        if not max(sizes, default=1):
            raise InputError(
                f"batch {len(found)} of the calibration data has no row",
                hint="leave out empty batches",
            )
        found.append(leaves)
        rows += max(sizes, default=1)
        if rows >= MOST_ROWS:
            break
    return found


def observe(program: Program, rows: Sequence[list[Any]], wanted: Iterable[fx.Node]) -> dict[Place, Seen]:
    """What the matrices of some operators see.

    Args:
        program: The program, in float32.
        rows: Flat inputs of some batches.
        wanted: Operators of `KINDS`.
    """
    nodes = set(wanted)
    found: dict[Place, Seen] = {}

    def visit(node: fx.Node, values: Sequence[Mapping[fx.Node, Any]]) -> None:
        if node not in nodes:
            return
        inputs: dict[int, list[Tensor]] = {}
        means: dict[int, list[Tensor]] = {}

        def record(number: int, x: Tensor, y: Tensor) -> None:
            inputs.setdefault(number, []).append(x.reshape(-1, x.shape[-1]))
            means.setdefault(number, []).append(y.reshape(-1, y.shape[-1]))

        for held in values:
            products_of(node, held, record)
        for number, parts in inputs.items():
            mean = torch.cat(means[number]).double().mean(0)
            found[node, number] = Seen(_sampled(torch.cat(parts)), mean)

    run_together(program, rows, visit)
    return found


def products_of(node: fx.Node, values: Mapping[fx.Node, Any], see: Callable[[int, Tensor, Tensor], object]) -> None:
    """Runs the reference of an operator and shows its products, in order.

    Args:
        node: The operator, one of `KINDS`.
        values: The values before it.
        see: Called with the number of the product, its input and its result.
    """
    numbers = itertools.count()

    def multiply(x: Tensor, *others: Any) -> Tensor:
        y = product(x, *others)
        see(next(numbers), x, y)
        return y

    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    KINDS[node.target].reference(*args, **kwargs, multiply=multiply)


def run_together(
    program: Program,
    rows: Sequence[list[Any]],
    before: Callable[[fx.Node, Sequence[Mapping[fx.Node, Any]]], object],
) -> None:
    """Runs a program on several batches, all of them through one operator before any goes to the next.

    Args:
        program: The program.
        rows: Flat inputs of each batch.
        before: Called before each operator with the values so far of each batch. It may change the state of this operator.
    """
    values: list[dict[fx.Node, Any]] = [{} for _ in rows]
    given = [iter(leaves) for leaves in rows]
    last = _last_users(program.graph)
    with torch.no_grad():
        for node in list(program.graph.nodes):
            if node.op == "output":
                return
            if node.op == "call_function":
                before(node, values)
            for held, leaves in zip(values, given, strict=True):
                if node.op == "placeholder":
                    held[node] = next(leaves)
                elif node.op == "get_attr":
                    state = get_state(program.module, str(node.target))
                    held[node] = state.detach() if isinstance(state, Tensor) else state
                else:
                    held[node] = result_of(node, held)
                for done in last.get(node, ()):
                    del held[done]


def _last_users(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the nodes that it is the last to read."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for used, node in last.items():
        found.setdefault(node, []).append(used)
    return found


def _sampled(rows: Tensor) -> Tensor:
    """Rows at even distances."""
    if len(rows) <= _SAMPLE:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, _SAMPLE, dtype=torch.float64).round().long()]
