"""Request inputs: inputs that hold one row for each request instead of one row for each candidate.

A model is captured with one row of every input for each candidate. `share_requests` then gives the request inputs a dimension 0 of their
own. It has size one; or one row for each of several requests, with a further input `request_index`, int64 [batch], that holds the
request of each candidate. The graph begins by repeating the request rows for the candidates, so that its meaning does not change. A pass
moves the repetition to later nodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.capture.inputs import Call, leaf_names, normalize_call
from recfx.errors import InputError
from recfx.ir.jagged import is_jagged
from recfx.ir.leaves import LeafSpec
from recfx.ir.program import Origin, Program
from recfx.ir.propagate import fake_mode_of, new_size, refresh
from recfx.ir.shapes import BATCH
from recfx.ir.signature import Signature

INDEX = "request_index"
REQUESTS = "requests"
_EXAMPLE_REQUESTS = 2
_PADDING = "pad the ids to int64 [1, length] and pool nn.Embedding(..., padding_idx=...) over them, masked, instead of nn.EmbeddingBag"
_aten = torch.ops.aten


def repeat_example(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[str]
) -> Call:
    """Example inputs in the form of the user's model, with request rows repeated for the candidates.

    Args:
        model: The model.
        args: Positional example inputs. Request inputs may have one row, one row for each candidate, or, if `kwargs` has a
            `request_index`, one row for each request.
        kwargs: Keyword example inputs.
        inputs: Names of the request inputs.

    Raises:
        InputError: A name is not an input, the numbers of rows do not fit, or every input is a request input.
    """
    plain = {name: value for name, value in kwargs.items() if name != INDEX}
    call = normalize_call(model, args, plain)
    names = leaf_names(call)
    requested = request_leaves(names, inputs)
    if any(is_jagged(leaf) for leaf in pytree.tree_leaves(call.values, is_leaf=is_jagged)):
        raise InputError(
            "a model with KeyedJaggedTensor inputs takes no request inputs: the bags of one request cannot be repeated for its candidates",
            where=f"request_inputs {', '.join(sorted(requested))}",
            hint=f"{_PADDING}; or leave request_inputs out",
        )
    leaves, spec = pytree.tree_flatten(call.values)
    sizes = [
        leaf.shape[0] for name, leaf in zip(names, leaves, strict=True) if name not in requested and _has_rows(leaf)
    ]
    if not sizes:
        raise InputError(
            "every input is a request input", hint="name only the inputs that hold one row for each request"
        )
    repeated = [
        _repeat(name, leaf, sizes[0], kwargs.get(INDEX)) if name in requested else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return call.with_values(pytree.tree_unflatten(repeated, spec))


def request_leaves(leaves: Sequence[str], inputs: Sequence[str]) -> set[str]:
    """The leaves with the given names; the name of a `forward` parameter stands for all its leaves.

    Raises:
        InputError: A name is not an input.
    """
    found: set[str] = set()
    for name in [inputs] if isinstance(inputs, str) else inputs:
        meant = {leaf for leaf in leaves if leaf == name or leaf.startswith((f"{name}[", f"{name}."))}
        if not meant:
            raise InputError(
                f"request_inputs names {name!r}, which is not an input", hint=f"the inputs are {', '.join(leaves)}"
            )
        found |= meant
    return found


def share_requests(program: Program, inputs: Sequence[str], *, many: bool = False, check: bool = True) -> Program:
    """The same program with request inputs of one row for each request.

    Args:
        program: A captured program.
        inputs: Names of the request inputs, as in `request_leaves`.
        many: Whether a call takes several requests and the keyword `request_index`, int64 [batch]; otherwise it takes one request.
        check: For one request whose row is repeated for each candidate: whether a call compares the rows or trusts them to be equal.

    Raises:
        InputError: A request input has no batch dimension, or every input is a request input.
    """
    requested = request_leaves([leaf.name for leaf in program.signature.leaves], inputs)
    if INDEX in program.signature.parameters:
        raise InputError(f"the model has an input {INDEX!r} of its own", hint="rename it; recfx adds one of that name")
    rows = BATCH if BATCH in program.signature.dims else 1  # a program for one candidate has no batch
    leaves = tuple(
        _leaf(leaf, rows, many, check) if leaf.name in requested else leaf for leaf in program.signature.leaves
    )
    shared = [a is not b for a, b in zip(leaves, program.signature.leaves, strict=True)]
    device = next((leaf.device for leaf, s in zip(leaves, shared, strict=True) if s), None)
    signature = dataclasses.replace(program.signature, leaves=leaves)
    if many:
        signature = _with_index(signature, rows, device or torch.device("cpu"))
    if not any(leaf.shape and leaf.shape[0] == rows and leaf.name != INDEX for leaf in signature.leaves):
        raise InputError(
            "every input is a request input", hint="name only the inputs that hold one row for each request"
        )
    result = program.clone()
    _rebuild(result, signature, shared, many)
    result.signature = signature
    names = {leaf.name: Origin.REQUEST for leaf, s in zip(leaves, shared, strict=True) if s}
    result.origins = {**result.origins, **names, **({INDEX: Origin.INDEX} if many else {})}
    result.example = _example(program.example, shared, many)
    return result


def user_leaves(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """Flat inputs of a program in the form of the user's model: request rows repeated for the candidates, without `request_index`."""
    signature = program.signature
    named = {spec.name: leaf for spec, leaf in zip(signature.leaves, leaves, strict=True)}
    index = named.get(INDEX) if program.origins.get(INDEX) is Origin.INDEX else None
    if Origin.REQUEST not in program.origins.values():
        return list(leaves)
    rows = leaves[signature.batch_leaf].shape[0] if signature.batch_leaf is not None else 1
    return [
        _repeat(name, leaf, rows, index) if program.origins.get(name) is Origin.REQUEST else leaf
        for name, leaf in named.items()
        if index is None or name != INDEX
    ]


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0


def _repeat(name: str, leaf: Any, rows: int, index: torch.Tensor | None) -> Any:
    if not _has_rows(leaf) or (leaf.shape[0] == rows and index is None):
        return leaf
    if index is not None:
        return leaf.index_select(0, index)
    if leaf.shape[0] != 1 and leaf.ndim == 1 and not leaf.is_floating_point():
        raise InputError(
            f"{leaf.shape[0]} whole numbers given for one request and {rows} candidate(s); ids of bags of varying length (values with "
            "offsets or lengths) cannot be request inputs",
            where=f"input {name}",
            hint=f"{_PADDING}; for a feature of one id, pass one row for the request, or repeat this row for each candidate",
        )
    if leaf.shape[0] != 1:
        raise InputError(
            f"{leaf.shape[0]} rows given for one request and {rows} candidate(s)",
            where=f"input {name}",
            hint="pass one row for the request, or repeat this row for each candidate",
        )
    return leaf.expand(rows, *leaf.shape[1:]).contiguous()


def _leaf(leaf: LeafSpec, rows: int | str, many: bool, check: bool) -> LeafSpec:
    if leaf.kind == "constant" or not leaf.shape:
        return leaf  # it already has one value for the whole call
    if leaf.shape[0] != rows or BATCH in map(str, leaf.shape[1:]):
        raise InputError(
            "a request input must have the batch as dimension 0, and in no other dimension",
            where=f"input {leaf}",
            hint="leave it out of request_inputs",
        )
    repeats: Any = "refused" if many else ("compared" if check else "trusted")
    return dataclasses.replace(leaf, shape=(REQUESTS if many else 1, *leaf.shape[1:]), repeats=repeats)


def _with_index(signature: Signature, rows: int | str, device: torch.device) -> Signature:
    index = LeafSpec(INDEX, "tensor", torch.int64, device, (rows,))
    most = signature.dims[BATCH][1] if BATCH in signature.dims else None
    values = signature.nested([0] * len(signature.leaves))
    return dataclasses.replace(
        signature,
        parameters=(*signature.parameters, INDEX),
        keyword_only=signature.keyword_only | {INDEX},
        in_spec=pytree.tree_flatten(((*values, 0), {}))[1],
        leaves=(*signature.leaves, index),
        dims={**signature.dims, REQUESTS: (1, most)},
    )


def _rebuild(program: Program, signature: Signature, shared: Sequence[bool], many: bool) -> None:
    """Gives the graph the new inputs, and repeats the rows of the request inputs for the candidates."""
    graph, placeholders = program.graph, program.placeholders()
    with graph.inserting_after(placeholders[-1]):
        index = graph.placeholder(INDEX) if many else None
    inputs = [*placeholders, *([index] if index is not None else [])]
    _new_values(inputs, program, signature)
    last: fx.Node = inputs[-1]
    rows: fx.Node | None = None
    if index is None:
        rows_from = next(
            n for n, leaf in zip(inputs, signature.leaves, strict=True) if leaf.shape and leaf.shape[0] == BATCH
        )
        with graph.inserting_after(last):
            last = rows = graph.call_function(_aten.sym_size.int, (rows_from, 0))
    for node, is_shared in zip(placeholders, shared, strict=True):
        if not is_shared:
            continue
        users = list(node.users)
        with graph.inserting_after(last):
            if index is not None:
                wide = graph.call_function(_aten.index_select.default, (node, 0, index))
            else:
                rest = [-1] * (node.meta["val"].ndim - 1)
                wide = graph.call_function(_aten.expand.default, (node, [rows, *rest]))
        for user in users:
            user.replace_input_with(node, wide)
        last = wide
    if rows is not None and not rows.users:
        graph.erase_node(rows)
    program.module.recompile()
    refresh(program.module)


def _new_values(inputs: Sequence[fx.Node], program: Program, signature: Signature) -> None:
    """Sets the fake values of inputs with new sizes, in the fake mode and with the symbols of the other inputs."""
    mode = fake_mode_of(program.graph)
    known = {leaf.name: leaf for leaf in program.signature.leaves}
    changed = [(n, leaf) for n, leaf in zip(inputs, signature.leaves, strict=True) if known.get(leaf.name) != leaf]
    old = {
        leaf.shape[0]: n.meta["val"].shape[0]
        for n, leaf in zip(inputs, program.signature.leaves, strict=False)
        if leaf.shape
    }
    sizes = {1: 1} | ({BATCH: old[BATCH]} if BATCH in old else {})
    if REQUESTS in signature.dims:
        sizes[REQUESTS] = new_size(mode, REQUESTS)
    for node, leaf in changed:
        rest = node.meta["val"].shape[1:] if "val" in node.meta else ()
        with mode:
            fake = torch.empty((sizes[leaf.shape[0]], *rest), dtype=leaf.dtype, device=leaf.device)
        node.meta = {k: v for k, v in node.meta.items() if k != "tensor_meta"} | {"val": fake}


def _example(leaves: Sequence[Any], shared: Sequence[bool], many: bool) -> tuple[Any, ...]:
    kept = _EXAMPLE_REQUESTS if many else 1
    cut = tuple(leaf[:kept] if s else leaf for leaf, s in zip(leaves, shared, strict=True))
    if not many:
        return cut
    rows = next(leaf.shape[0] for leaf, s in zip(leaves, shared, strict=True) if s)
    index = torch.arange(rows) % min(kept, rows)
    device = next(leaf.device for leaf, s in zip(leaves, shared, strict=True) if s)
    return (*cut, index.to(device))
