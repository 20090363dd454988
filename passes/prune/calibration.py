"""Calibration data of passes that prune: what values of the program look like on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from recfx.errors import IdError, InputError
from recfx.ir.lookup_ops import tables_of
from recfx.ir.mappings import mapping_keys
from recfx.ir.program import Program, get_state

_HOW = "pass resources={'calibration': batches} with the inputs of some hundred rows, each batch as a tuple or a dict of arguments"
_IDS = (
    "prepare calibration data as the model's inputs are, with ids from 0 to the number of rows of the table minus one"
)

#: The most rows of a batch that a program of one row runs.
_SINGLE_ROWS = 64


def batches(program: Program, data: Any) -> Iterator[list[Any]]:
    """The flat inputs of each batch.

    Args:
        program: The program.
        data: An iterable of batches, each as `example_inputs` of `optimize`: a tuple or list of positional arguments, a dict of keyword
            arguments or as the one argument, or one tensor. Labels may follow as the last element, as in the batches of a data loader:
            `(dense, sparse, label)`, `((dense, sparse), label)`, or be among the values of a dict; what the program does not take is not
            used.

    Raises:
        InputError: There is no batch, a batch does not fit the signature, or it has NaN.
    """
    if not isinstance(data, Iterable) or isinstance(data, Tensor | str):
        raise InputError(f"calibration data is an iterable of batches, got {type(data).__name__}", hint=_HOW)
    number = -1
    for number, batch in enumerate(data):
        try:
            found = _leaves(program, batch)
        except InputError as error:
            raise InputError(
                f"batch {number} of the calibration data does not fit the model: {error.what}",
                where=error.where,
                hint=error.hint,
            ) from error
        for leaves in found:
            _require_numbers(program, leaves, number)
            yield leaves
    if number < 0:
        raise InputError("the calibration data has no batch", hint=_HOW)


def _require_numbers(program: Program, leaves: list[Any], number: int) -> None:
    for leaf, given in zip(program.signature.leaves, leaves, strict=True):
        if isinstance(given, Tensor) and given.is_floating_point() and bool(given.isnan().any()):
            raise InputError(
                f"batch {number} of the calibration data has NaN",
                where=f"input {leaf.name}",
                hint="leave out such rows, or fill in the missing numbers as the model's own data preparation does",
            )


def _leaves(program: Program, batch: Any) -> list[list[Any]]:
    """The flat inputs of a batch, in the first of its forms that fits; several if the program takes one row at a time."""
    problem: InputError | None = None
    for args, kwargs in _forms(program, batch):
        try:
            found = _in_rows(program, program.signature.flatten(args, kwargs))
            for leaves in found:
                program.signature.check(leaves)
        except InputError as error:
            problem = problem or error
        else:
            return found
    assert problem is not None
    raise problem


def _in_rows(program: Program, leaves: list[Any]) -> list[list[Any]]:
    """A batch as the batches that a program takes: single rows for a program of one row, such as that of a model that drops the dimension
    of a batch of one row."""
    if program.signature.dims:
        return [leaves]
    cut = [
        place
        for place, (leaf, given) in enumerate(zip(program.signature.leaves, leaves, strict=True))
        if isinstance(given, Tensor) and given.ndim == len(leaf.shape) > 0 and leaf.shape[0] == 1 != len(given)
    ]
    sizes = {len(leaves[place]) for place in cut}
    if len(sizes) != 1:
        return [leaves]
    rows = range(min(sizes.pop(), _SINGLE_ROWS))
    return [[given[row : row + 1] if place in cut else given for place, given in enumerate(leaves)] for row in rows]


def _forms(program: Program, batch: Any) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """The (positional, keyword) arguments that a batch may stand for."""
    if isinstance(batch, Mapping):
        yield from _forms_of_mapping(program, batch)
    elif isinstance(batch, tuple | list):
        yield tuple(batch), {}
        if len(batch) == 2 and isinstance(batch[0], tuple | list | Mapping):
            yield from _forms(program, batch[0])
        elif len(batch) > 1:
            yield tuple(batch[:-1]), {}
    else:
        yield (batch,), {}


def _forms_of_mapping(
    program: Program, batch: Mapping[Any, Any]
) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """The same of a mapping: the values that the program takes, as the one argument or by keyword."""
    signature = program.signature
    arguments: list[pytree.TreeSpec] = signature.in_spec.children()[0].children()
    keys = mapping_keys(arguments[0]) if len(arguments) == 1 else None
    if keys is not None:
        yield ({key: batch[key] for key in keys if key in batch},), {}
    yield (), {name: value for name, value in batch.items() if name in signature.parameters}


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
            values[node] = result_of(node, {**values, **before(node, values)})
    return []


def result_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """The result of an operator.

    Args:
        node: The operator.
        values: The values of its operands.

    Raises:
        IdError: It looks up a row that its table does not have.
    """
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    target: Any = node.target
    try:
        return target(*args, **kwargs)
    except IndexError as error:
        raise IdError(
            f"the calibration data has an id outside its table: {error}", where=_tables(node), hint=_IDS
        ) from error


def require_ids(node: fx.Node, ids: Tensor, rows: int) -> None:
    """Checks the ids of a lookup.

    Args:
        node: The lookup.
        ids: The ids.
        rows: The rows of its table.

    Raises:
        IdError: An id is outside the table.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise IdError(
            f"the calibration data has an id outside its table: ids from {int(ids.min())} to {int(ids.max())} in {rows} rows",
            where=_tables(node),
            hint=_IDS,
        )


def _tables(node: fx.Node) -> str:
    """The tables of a lookup, or the name of another operator."""
    names = [str(table.target) for table in tables_of(node)]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "") if names else node.name


def along(held: Tensor, axis: int) -> Tensor:
    """The elements of a tensor as a matrix with one column for each place of an axis, [rows, places]."""
    return held.movedim(axis, -1).reshape(-1, held.shape[axis])
