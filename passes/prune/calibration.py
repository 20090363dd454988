"""Calibration data of passes that prune: what values of the program look like on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.program import Program, get_state

_HOW = "pass resources={'calibration': batches} with the inputs of some hundred rows, each batch as a tuple or a dict of arguments"


def batches(program: Program, data: Any) -> Iterator[list[Any]]:
    """The flat inputs of each batch.

    Args:
        program: The program.
        data: An iterable of batches, each as `example_inputs` of `optimize`: a tuple or list of positional arguments, a dict of keyword
            arguments or as the one argument, or one tensor. Labels may follow as the last element, as in the batches of a data loader:
            `(dense, sparse, label)`, `((dense, sparse), label)`; they are not used.

    Raises:
        InputError: There is no batch, a batch does not fit the signature, or it has NaN.
    """
    if not isinstance(data, Iterable) or isinstance(data, Tensor | str):
        raise InputError(f"calibration data is an iterable of batches, got {type(data).__name__}", hint=_HOW)
    number = -1
    for number, batch in enumerate(data):
        leaves = _leaves(program, batch)
        for leaf, given in zip(program.signature.leaves, leaves, strict=True):
            if isinstance(given, Tensor) and given.is_floating_point() and bool(given.isnan().any()):
                raise InputError(
                    f"batch {number} of the calibration data has NaN",
                    where=f"input {leaf.name}",
                    hint="leave out such rows, or fill in the missing numbers as the model's own data preparation does",
                )
        yield leaves
    if number < 0:
        raise InputError("the calibration data has no batch", hint=_HOW)


def _leaves(program: Program, batch: Any) -> list[Any]:
    """The flat inputs of a batch, in the first of its forms that fits."""
    problem: InputError | None = None
    for args, kwargs in _forms(batch):
        try:
            leaves = program.signature.flatten(args, kwargs)
            program.signature.check(leaves)
        except InputError as error:
            problem = problem or error
        else:
            return leaves
    assert problem is not None
    raise problem


def _forms(batch: Any) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """The (positional, keyword) arguments that a batch may stand for."""
    if isinstance(batch, Mapping):
        yield (), batch
        yield (batch,), {}
    elif isinstance(batch, tuple | list):
        yield tuple(batch), {}
        if len(batch) == 2 and isinstance(batch[0], tuple | list | Mapping):
            yield from _forms(batch[0])
        elif len(batch) > 1:
            yield tuple(batch[:-1]), {}
    else:
        yield (batch,), {}


def run_with(
    program: Program, leaves: list[Any], before: Callable[[fx.Node, dict[fx.Node, Any]], Mapping[fx.Node, Any]]
) -> list[Any]:
    """Runs a program and lets a function see, and replace, the operands of each operator.

    Args:
        program: The program.
        leaves: Flat inputs.
        before: (operator, values so far) -> operands to use instead, for this operator only.
    """
    given = iter(leaves)
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            held = get_state(program.module, str(node.target))
            values[node] = held.detach() if isinstance(held, Tensor) else held
        elif node.op == "output":
            return list(fx.map_arg(node.args[0], values.__getitem__))
        else:
            used = {**values, **before(node, values)}
            args, kwargs = fx.map_arg((node.args, node.kwargs), used.__getitem__)
            target: Any = node.target
            values[node] = target(*args, **kwargs)
    return []


def along(held: Tensor, axis: int) -> Tensor:
    """The elements of a tensor as a matrix with one column for each place of an axis, [rows, places]."""
    return held.movedim(axis, -1).reshape(-1, held.shape[axis])
