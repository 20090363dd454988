"""The operators that are given to TensorRT, and the reasons for the others."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from recfx.ir.op_sets import CASTS, COPIES, EMBEDDING_BAGS, EXPANSIONS, RESHAPES, SQUEEZES
from recfx.ir.region import Region
from recfx.ops.library import DECOMPOSITIONS
from recfx.ops.to_aten import trace_call
from recfx.targets.equal_bags import refusal_of_bag
from recfx.targets.id_checks import has_computed_places, moves_integers
from recfx.targets.operator_forms import form_of
from recfx.targets.region_sizes import expression_of, is_size
from recfx.targets.tensorrt.lookups import READS, ids_of, is_checkable

_aten = torch.ops.aten

#: The types that engines compute with. Float64 is left out: TensorRT has no such type.
_TYPES = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool))
_INTEGERS = (torch.int64, torch.int32)

#: Operators with integers as results that neither compute nor convert any, and those that count.
_INTEGER_MOVES = frozenset(
    (
        *(*EXPANSIONS, _aten.where.self, _aten.masked_fill.Scalar),
        *(_aten.arange.default, _aten.arange.start, _aten.arange.start_step),
        *(_aten.full.default, _aten.zeros.default, _aten.ones.default),
    )
)

#: Operators that may return their operand unchanged.
_MAYBE_IDENTITIES = frozenset((*CASTS, _aten.to.device, *SQUEEZES, *RESHAPES, _aten.expand.default))

#: Form of an operator of the dialect -> the result of `_decomposed`, and the largest number of forms that are kept.
_KNOWN: dict[Any, str] = {}
_MOST = 1 << 14

Converter = Callable[[fx.Node], str]


def refusals(region: Region, converter: Converter, *, lowering: bool = False) -> dict[fx.Node, str]:
    """Operator -> why TensorRT does not get it, for those that it does not get.

    Args:
        region: The region.
        converter: The reason why torch-tensorrt cannot convert an operator; "" if it can.
        lowering: Whether the region is the one that is lowered. Then ids must follow from its inputs.
    """
    calls = [node for node in region.graph.nodes if node.op != "placeholder" and node.op != "output"]
    found = (
        (node, _reason(node, converter, lowering)) for node in calls if node.op != "get_attr" and not is_size(node)
    )
    copies = dict.fromkeys(_returned_copies(region), "a copy that is returned needs no engine") if lowering else {}
    return copies | {node: reason for node, reason in found if reason}


def _returned_copies(region: Region) -> list[fx.Node]:
    """Operators that return their operand, where the region returns both, or where the operand is an input.

    An engine has one name for a value, and none for an input.
    """
    returned = [value for value in next(iter(reversed(region.graph.nodes))).args[0] if isinstance(value, fx.Node)]
    found, taken = list[fx.Node](), {value for value in returned if not _is_identity(value)}
    for node in filter(_is_identity, returned):
        source, chain = node, list[fx.Node]()
        while _is_identity(source):
            chain.append(source)
            source = source.all_input_nodes[0]
        if source.op != "call_function" or source in taken:
            found += chain
        taken.add(source)
    return found


def _is_identity(node: fx.Node) -> bool:
    """Whether an operator returns the numbers of its operand in the same shape and type."""
    if node.op != "call_function" or len(node.all_input_nodes) != 1:
        return False
    if node.target in COPIES or node.target in (_aten.dropout.default, _aten.lift_fresh_copy.default):
        return True
    same = node.all_input_nodes[0].meta["val"]
    return node.target in _MAYBE_IDENTITIES and _shape(node.meta["val"]) == _shape(same)


def _shape(held: Any) -> Any:
    return (held.dtype, tuple(map(expression_of, held.shape))) if isinstance(held, torch.Tensor) else None


def _reason(node: fx.Node, converter: Converter, lowering: bool) -> str:
    target = node.target
    if target is operator.getitem:
        return ""
    if not isinstance(target, torch._ops.OpOverload):
        return "it is not an operator of torch"
    if target.namespace != "aten" and target not in DECOMPOSITIONS:
        return "it is an operator of another library"
    if torch.Tag.nondeterministic_seeded in target.tags and not _is_without_dropout(node):
        return "it draws random numbers"
    bag = refusal_of_bag(node) if target in EMBEDDING_BAGS else ""
    return bag or _values(node) or _places(node, lowering) or converter(node)


def _is_without_dropout(node: fx.Node) -> bool:
    """Whether an operator with dropout drops nothing."""
    if node.target is _aten.dropout.default:
        return len(node.args) > 2 and node.args[2] is False
    if node.target is _aten.scaled_dot_product_attention.default:
        return bool((node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)) == 0.0)
    return False


def _values(node: fx.Node) -> str:
    """Why the types and sizes of an operator's operands and results are refused."""
    results = _read_results(node)
    operands = pytree.tree_leaves([source.meta.get("val") for source in node.all_input_nodes])
    for held in (*results, *operands):
        if not isinstance(held, torch.Tensor):
            continue
        if held.layout is not torch.strided or held.dtype not in _TYPES:
            return f"tensors of type {str(held.dtype).removeprefix('torch.')} and layout {held.layout}"
        if free_unbacked_symbols(held):
            return "sizes that depend on values"
    whole = any(isinstance(held, torch.Tensor) and held.dtype in _INTEGERS for held in results)
    if whole and not moves_integers(node) and node.target not in _INTEGER_MOVES:
        return "integers are computed by torch; TensorRT gets them as ids and masks"
    return ""


def _read_results(node: fx.Node) -> list[Any]:
    """The results of an operator; of a tuple, those that are read."""
    held = node.meta.get("val")
    if not isinstance(held, list | tuple):
        return [held]
    parts = [user.args[1] for user in node.users if user.target is operator.getitem]
    return [held[part] for part in parts if isinstance(part, int)]


def _places(node: fx.Node, lowering: bool) -> str:
    """Why the places at which an operator reads or writes are refused."""
    target = node.target
    if target in READS:
        return _ids(node, lowering)
    if has_computed_places(node):
        return "places that are computed cannot be checked before the call"
    if target in DECOMPOSITIONS:
        ids = [source for source in node.all_input_nodes if _is_whole(source)]
        if lowering and not all(is_checkable(source) for source in ids):
            return "ids that are computed in the same region cannot be checked before the call"
        return _decomposed(node)
    return ""


def _decomposed(node: fx.Node) -> str:
    """Why the decomposition of an operator of the dialect reads or writes at places that cannot be checked."""
    form = form_of(node)
    if form not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        calls = [
            inner for inner in trace_call(node, DECOMPOSITIONS[node.target]).graph.nodes if inner.op == "call_function"
        ]
        bags = (refusal_of_bag(inner) if inner.target in EMBEDDING_BAGS else "" for inner in calls)
        _KNOWN[form] = next(filter(None, bags), "") or next(
            filter(None, (_places(inner, False) for inner in calls)), ""
        )
    return _KNOWN[form]


def _ids(node: fx.Node, lowering: bool) -> str:
    ids, rows = ids_of(node)
    if not isinstance(rows, int):
        return "the number of rows of the table is free"
    if rows >= 2**31:
        return "the table has more rows than 32-bit integers count"
    if ids.op == "get_attr":
        return ""
    if lowering and not is_checkable(ids):
        return "ids that are computed in the same region cannot be checked before the call"
    return ""


def _is_whole(source: fx.Node) -> bool:
    held = source.meta.get("val")
    return isinstance(held, torch.Tensor) and held.dtype in _INTEGERS and source.op != "get_attr"
