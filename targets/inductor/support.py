"""The operators that are given to Inductor."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.ops import attention, cross, interaction, mlp
from recfx.targets.id_checks import has_computed_places, is_moved_input
from recfx.targets.region_sizes import is_size

_aten = torch.ops.aten
#: Operators of the dialect whose decomposition is plain arithmetic.
_DECOMPOSED = frozenset((mlp.mlp, cross.cross, interaction.dot_interaction, interaction.fm, attention.target_attention))

#: Operators whose compiled code gives other results than torch for NaN or infinities.
_DIFFERENT = frozenset((_aten.softshrink.default, _aten.remainder.Tensor))
_TYPES = frozenset((torch.float32, torch.float64, torch.int64, torch.int32, torch.bool, torch.bfloat16, torch.float16))


def refusals(region: Region, *, lowering: bool = False) -> dict[fx.Node, str]:
    """Operator -> why it is not compiled, for those that are not.

    Args:
        region: The region.
        lowering: Whether the region is the one that is compiled. Then ids may not be computed in it.
    """
    calls = [node for node in region.graph.nodes if node.op == "call_function" and not is_size(node)]
    found = ((node, _reason(region, node, lowering)) for node in calls)
    return {node: reason for node, reason in found if reason}


def lookups_of(region: Region) -> tuple[tuple[fx.Node, int], ...]:
    """The ids of every lookup, with the number of rows they select from."""
    lookups = region.graph.find_nodes(op="call_function", target=_aten.embedding.default)
    return tuple((node.args[1], int(node.args[0].meta["val"].shape[0])) for node in lookups)


def _reason(region: Region, node: fx.Node, lowering: bool) -> str:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return ""
    if not isinstance(target, torch._ops.OpOverload):
        return "it is not an operator of torch"
    if target.namespace != "aten" and target not in _DECOMPOSED:
        return "it is an operator of another library"
    if target in EMBEDDING_BAGS:
        return "bags run on recfx's kernels or on torch"
    if target in _DIFFERENT:
        return "compiled code gives other results for NaN or infinities"
    if torch.Tag.nondeterministic_seeded in target.tags:
        return "it draws random numbers"
    problem = _values(node)
    if problem:
        return problem
    if target in _DECOMPOSED and any(_is_integer_weight(region, n) for n in node.all_input_nodes):
        return "layers of 8-bit integers run on recfx's kernels"
    if has_computed_places(node):
        return "places that are computed cannot be checked before the call"
    if target is _aten.embedding.default:
        return _lookup(node, lowering)
    return ""


def _lookup(node: fx.Node, lowering: bool) -> str:
    table, ids = node.args[:2]
    assert isinstance(table, fx.Node)
    assert isinstance(ids, fx.Node)
    if not isinstance(table.meta["val"].shape[0], int):
        return "the number of rows of the table is free"
    if lowering and not is_moved_input(ids):
        return "ids that are computed in the same region cannot be checked before the call"
    return ""


def _values(node: fx.Node) -> str:
    for held in pytree.tree_leaves([node.meta.get("val"), [n.meta.get("val") for n in node.all_input_nodes]]):
        if not isinstance(held, torch.Tensor):
            continue
        if held.layout is not torch.strided or (held.dtype not in _TYPES and held.dtype is not torch.int8):
            return f"tensors of type {held.dtype} and layout {held.layout}"
        if free_unbacked_symbols(held):
            return "sizes that depend on values"
        if held.device.type not in ("cpu", "meta"):
            return f"a tensor lies on {held.device}"
    return ""


def _is_integer_weight(region: Region, node: fx.Node) -> bool:
    return node.op == "get_attr" and get_state(region.module, str(node.target)).dtype is torch.int8
