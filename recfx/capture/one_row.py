"""Models whose shapes differ for a batch of one row: `squeeze()` drops the batch dimension, or forward branches on it.

Such a model becomes two programs. The first accepts two rows and more, and its `squeeze` keeps the batch. The second accepts one row, and
all its sizes are fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.capture.inputs import Call
from recfx.ir.op_sets import SQUEEZES
from recfx.ir.program import Program
from recfx.ir.propagate import refresh
from recfx.ir.shapes import BATCH, evaluate_rows
from recfx.ir.signature import Signature

_aten = torch.ops.aten
#: The number of further rows of the example on which the program for one row is compared.
_OTHER_ROWS = 3


def specialise_rows(program: Program) -> Program:
    """The program for two rows and more if a `squeeze` in it drops a free dimension of one row; otherwise the program itself."""
    return for_two_rows(program) if any(map(_drops_a_free_dimension, _squeezes(program))) else program


def for_two_rows(program: Program) -> Program:
    """The program for two rows and more, with every `squeeze` keeping the batch; the program itself if it does not accept one row.

    Without such a `squeeze` both programs have one graph, and a caller goes on with one of them.
    """
    if program.signature.dims.get(BATCH, (0, 0))[0] != 1 or (program.signature.dims[BATCH][1] or 2) < 2:
        return program
    if any(map(_drops_a_free_dimension, _squeezes(program))):
        result = program.clone()
        for node in [node for node in _squeezes(result) if _drops_a_free_dimension(node)]:
            _keep_free_dimensions(node)
        result.module.recompile()
        refresh(result.module)
    else:
        result = program.with_module(program.module)
    dims = {**program.signature.dims, BATCH: (2, program.signature.dims[BATCH][1])}
    result.signature = dataclasses.replace(program.signature, dims=dims)
    return result


def needs_one_row(signature: Signature) -> bool:
    """Whether a program accepts every batch size except one row."""
    return signature.dims.get(BATCH, (0, 0))[0] == 2


def first_rows(leaves: Sequence[Any], signature: Signature, row: int = 0) -> list[Any]:
    """Cuts flat inputs of a program to one row."""
    found = []
    for leaf, spec in zip(leaves, signature.leaves, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                step = evaluate_rows(size, 1)
                leaf = leaf.narrow(axis, row * step, step)
        found.append(1 if spec.kind == "size" else leaf)
    return found


def one_row_cases(program: Program, others: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
    """Further inputs of one row, cut from the example and from other inputs."""
    signature = program.signature
    rows = [first_rows(program.example, signature, row) for row in range(1, _OTHER_ROWS)] if _rows(program) > 2 else []
    return [*rows, *(first_rows(leaves, signature) for _, leaves in others)]


def refusal_of_one_row(model: torch.nn.Module, call: Call, signature: Signature) -> str | None:
    """The error of the user's model on one row; None when the model accepts it."""
    one = one_row_call(call, signature)
    try:
        with torch.no_grad():
            model(*one.args, **one.kwargs)
    except Exception as error:  # noqa: BLE001 - a model may refuse one row for any reason, which the notice gives
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return None


def one_row_call(call: Call, signature: Signature) -> Call:
    """The call with only the first row of the example."""
    leaves, spec = pytree.tree_flatten(tuple(call.values))
    cut = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in first_rows(leaves, signature)]
    return call.with_values(pytree.tree_unflatten(cut, spec))


def can_be_cut(signature: Signature) -> bool:
    """Whether the batch is the only free dimension, and every dynamic size is a multiple of it."""
    sizes = [size for leaf in signature.leaves for size in leaf.shape if isinstance(size, str)]
    per_row = [(evaluate_rows(size, 1), evaluate_rows(size, 2)) for size in sizes]
    return signature.dims.keys() == {BATCH} and all(one and two == 2 * one for one, two in per_row)


def _rows(program: Program) -> int:
    leaf = program.signature.batch_leaf
    return int(program.example[leaf].shape[0]) if leaf is not None else 0


def _squeezes(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.target in SQUEEZES]


def _squeezed(node: fx.Node) -> list[int]:
    """The dimensions that a `squeeze` drops if their size is one."""
    source: Any = node.args[0]
    rank = source.meta["val"].ndim
    given: Any = range(rank) if node.target is _aten.squeeze.default else node.args[1]
    return sorted({d % rank for d in ([given] if isinstance(given, int) else given)}) if rank else []


def _drops_a_free_dimension(node: fx.Node) -> bool:
    source: Any = node.args[0]
    return any(isinstance(source.meta["val"].shape[d], torch.SymInt) for d in _squeezed(node))


def _keep_free_dimensions(node: fx.Node) -> None:
    """Replaces a `squeeze` by one `squeeze.dim` for each dimension whose size is always one."""
    source: Any = node.args[0]
    sizes = source.meta["val"].shape
    result = source
    with node.graph.inserting_before(node):
        for dim in reversed(_squeezed(node)):
            if isinstance(sizes[dim], int) and sizes[dim] == 1:
                result = node.graph.call_function(_aten.squeeze.dim, (result, dim))
                result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
