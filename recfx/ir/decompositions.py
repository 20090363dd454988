"""Decompositions at capture: operators of other libraries, and unchecked operators of torch, become ATen and dialect operators.

They replace operators that no pass and no backend knows, and operators whose kernels write to their arguments or do not check their
reads. `DECOMPOSITIONS` finds them by the name of the operator, so the library that defines the operator may be absent. Other packages
add their own entries.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import CaptureError
from recfx.ir.access import argument_of
from recfx.ir.program import get_state, set_state, unused_name
from recfx.ir.provenance import where

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Rewriter:
    """Inserts the replacement of one operator before it.

    Attributes:
        module: The graph module.
        node: The operator to replace.
    """

    module: fx.GraphModule
    node: fx.Node

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by the names of the operator's schema, defaults included."""
        target: Any = self.node.target
        given = dict(zip((a.name for a in target._schema.arguments), self.node.args, strict=False))
        defaults = {a.name: a.default_value for a in target._schema.arguments}
        return {**defaults, **given, **self.node.kwargs}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Inserts an operator before `node`."""
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.call_function(target, args, kwargs)
        made.meta = {k: v for k, v in self.node.meta.items() if k not in ("val", "tensor_meta")}
        return made

    def constant(self, stem: str, tensor: torch.Tensor) -> fx.Node:
        """Adds a tensor to the state and inserts a read of it."""
        name = unused_name(self.module, stem)
        set_state(self.module, name, tensor)
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.get_attr(name)
        made.meta = {k: v for k, v in self.node.meta.items() if k not in ("val", "tensor_meta")}
        return made

    def value(self, argument: Any) -> torch.Tensor:
        """The constant value of an argument, computed from the state.

        Raises:
            CaptureError: The argument depends on the inputs.
        """
        if argument.op == "get_attr":
            return torch.as_tensor(get_state(self.module, str(argument.target)).detach())
        if argument.op != "call_function":
            raise self.refusal(f"its argument {argument.name} depends on the inputs")
        if argument.target in (_aten.detach_.default, _aten.lift_fresh_copy.default):
            return self.value(argument.args[0])
        args, kwargs = fx.map_arg((argument.args, argument.kwargs), self.value)
        return torch.as_tensor(argument.target(*args, **kwargs))

    def refusal(self, what: str) -> CaptureError:
        """The error for an operator that cannot be rewritten; `what` is the reason."""
        return CaptureError(
            f"{self.node.target} cannot be captured: {what}",
            where=where(self.node),
            hint="optimize a part of the model that does not contain it: recfx.optimize(model.submodule, ...)",
        )


#: Name of an operator -> function that inserts its replacement and returns one node, or one node for each tensor of a list.
DECOMPOSITIONS: dict[str, Callable[[Rewriter], fx.Node | Sequence[fx.Node]]] = {}


def decompose(module: fx.GraphModule) -> int:
    """Rewrites every operator that has a decomposition, in place; returns their number.

    Raises:
        CaptureError: The decomposition of an operator does not cover this form of it.
    """
    found = [(node, rule) for node in module.graph.nodes if (rule := DECOMPOSITIONS.get(_name(node))) is not None]
    for node, rule in found:
        _replace(module.graph, node, rule(Rewriter(module, node)))
    if found:
        module.graph.lint()
        module.recompile()
    return len(found)


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name if node.op == "call_function" and schema is not None else ""


def _replace(graph: fx.Graph, node: fx.Node, results: fx.Node | Sequence[fx.Node]) -> None:
    if isinstance(results, fx.Node):
        results.meta = dict(node.meta)
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            result = results[argument_of(user, 1, int)]
            result.meta = dict(user.meta)
            user.replace_all_uses_with(result)
            graph.erase_node(user)
    graph.erase_node(node)


def _columns(rewriter: Rewriter, source: Any, start: int, length: int) -> fx.Node:
    return rewriter.call(_aten.slice.Tensor, source, 1, start, start + length)


def _joined(rewriter: Rewriter, parts: Sequence[fx.Node]) -> fx.Node:
    return rewriter.call(_aten.cat.default, list(parts), 1)


def _permute_multi_embedding(rewriter: Rewriter) -> list[fx.Node]:
    """Column ranges of several tensors, joined in another order; `permutes` has rows (source, result, from, to, length, next)."""
    given = rewriter.arguments
    groups: dict[int, list[tuple[int, fx.Node]]] = {}
    for source, result, start, place, length, _ in rewriter.value(given["permutes"]).tolist():
        part = _columns(rewriter, given["pooled_embs"][source], start, length)
        groups.setdefault(result, []).append((place, part))
    return [_joined(rewriter, [part for _, part in sorted(groups[g])]) for g in range(len(groups))]


def _regroup_keyed_tensor(rewriter: Rewriter) -> list[fx.Node]:
    """Columns of named features of several tensors, joined group by group."""
    given = rewriter.arguments
    places: dict[str, tuple[Any, int, int]] = {}
    for tensor, keys, lengths in zip(given["pooled_embs"], given["keys"], given["lengths"], strict=True):
        start = 0
        for key, length in zip(keys, lengths, strict=True):
            places.setdefault(key, (tensor, start, length))
            start += length
    return [_joined(rewriter, [_columns(rewriter, *places[key]) for key in group]) for group in given["groups"]]


def _permute_pooled(rewriter: Rewriter) -> fx.Node:
    """The features of one tensor in another order."""
    given = rewriter.arguments
    bounds = rewriter.value(given["offset_dim_list"]).tolist()
    order = rewriter.value(given["permute_list"]).tolist()
    parts = [_columns(rewriter, given["pooled_embs"], bounds[f], bounds[f + 1] - bounds[f]) for f in order]
    return _joined(rewriter, parts)


def _group_index_select(rewriter: Rewriter) -> list[fx.Node]:
    given = rewriter.arguments
    pairs = zip(given["input_group"], given["indices_group"], strict=True)
    return [rewriter.call(_aten.index_select.default, source, 0, rows) for source, rows in pairs]


def _running_sums(rewriter: Rewriter) -> fx.Node:
    """Running sums along the last dimension; "complete" adds a leading zero, "exclusive" leaves each element out of its own sum."""
    source: Any = rewriter.node.args[0]
    held: torch.Tensor = source.meta["val"]
    sums = rewriter.call(_aten.cumsum.default, source, -1, dtype=held.dtype)
    kind = _name(rewriter.node)
    if "inclusive" in kind:
        return sums
    if "exclusive" in kind:
        return rewriter.call(_aten.sub.Tensor, sums, source)
    shape = [1] if held.ndim == 1 else [rewriter.call(_aten.sym_size.int, source, 0), 1]
    zeros = rewriter.call(_aten.new_zeros.default, source, shape)
    return rewriter.call(_aten.cat.default, [zeros, sums], -1)


def _segment_reduce(rewriter: Rewriter) -> fx.Node:
    """segment_reduce with checked lengths: with wrong offsets or unchecked lengths, torch reads beyond the data."""
    given = rewriter.arguments
    lengths = given["lengths"]
    if given["offsets"] is not None:
        ends = rewriter.call(_aten.slice.Tensor, given["offsets"], -1, 1, sys.maxsize)
        lengths = rewriter.call(_aten.sub.Tensor, ends, rewriter.call(_aten.slice.Tensor, given["offsets"], -1, 0, -1))
    if lengths is None:
        raise rewriter.refusal("it has neither lengths nor offsets")
    options = {"lengths": lengths, "axis": given["axis"], "unsafe": False, "initial": given["initial"]}
    return rewriter.call(_aten.segment_reduce.default, given["data"], given["reduce"], **options)


DECOMPOSITIONS |= {
    "aten::segment_reduce": _segment_reduce,
    "fbgemm::asynchronous_complete_cumsum": _running_sums,
    "fbgemm::asynchronous_inclusive_cumsum": _running_sums,
    "fbgemm::asynchronous_exclusive_cumsum": _running_sums,
    "fbgemm::permute_multi_embedding": _permute_multi_embedding,
    "fbgemm::permute_multi_embedding_function": _permute_multi_embedding,
    "fbgemm::regroup_keyed_tensor": _regroup_keyed_tensor,
    "fbgemm::permute_pooled_embs": _permute_pooled,
    "fbgemm::permute_pooled_embs_auto_grad": _permute_pooled,
    "fbgemm::permute_duplicate_pooled_embs": _permute_pooled,
    "fbgemm::permute_duplicate_pooled_embs_auto_grad": _permute_pooled,
    "fbgemm::group_index_select_dim0": _group_index_select,
}
