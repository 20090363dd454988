"""The embeddings that a lookup gives, and whether they are one row for each row of the batch."""

from __future__ import annotations

import operator

from torch import fx

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.sizes import same_size
from recfx.passes._match import value


def result_of_lookup(lookup: fx.Node) -> fx.Node | str:
    """The embeddings of a lookup; or why they cannot be replaced: a bag has several results, and outputs are returned.

    Args:
        lookup: A lookup in a table.
    """
    result = lookup
    if lookup.target in EMBEDDING_BAGS:
        readers = [user for user in lookup.users if user.target is operator.getitem and user.args[1] == 0]
        if len(readers) != 1 or len(lookup.users) != 1:
            return "its embeddings are not its only result"
        result = readers[0]
    if any(user.op == "output" for user in result.users):
        return "its rows are returned"
    return result


def row_shape(result: fx.Node) -> tuple[int, ...] | None:
    """The sizes of a row of a value [B, ...]; None if they are not fixed."""
    held = value(result)
    if held is None or held.ndim < 2 or not all(isinstance(size, int) for size in held.shape[1:]):
        return None
    return tuple(held.shape[1:])


def with_rows_of(result: fx.Node) -> fx.Node | None:
    """An input of the program with as many rows as a value [B, ...]; None if no input has."""
    held = value(result)
    inputs: list[fx.Node] = list(result.graph.find_nodes(op="placeholder"))
    if held is None:
        return None
    for node in inputs:
        given = value(node)
        if given is not None and given.ndim and same_size(held.shape[0], given.shape[0]):
            return node
    return None
