"""The registry of torch-tensorrt's converters: which operators of ATen it can give to TensorRT."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import COPIES, EMBEDDING_BAGS
from recfx.ops.library import DECOMPOSITIONS
from recfx.ops.to_aten import trace_call
from recfx.targets.operator_forms import form_of
from recfx.targets.region_sizes import is_size
from recfx.targets.tensorrt import package
from recfx.targets.tensorrt.bags import gathered

_aten = torch.ops.aten

#: Operators whose converters are not used, with the reason.
_AVOIDED: dict[Any, str] = {
    _aten._embedding_bag.default: "TensorRT's own bags are large and slow engines",
    _aten.scatter.value: "torch-tensorrt writes float64 for the number",
}

#: Operators that torch-tensorrt replaces by others after it has decomposed the program.
_REPLACED = frozenset((_aten.max_pool2d_with_indices.default,))

#: What TensorRT computes of booleans alone, as names of operators; the rest it has for numbers only. The registry does not ask for types.
_OF_BOOLEANS = frozenset(
    (
        *("logical_and", "logical_or", "logical_xor", "logical_not"),
        *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "__and__", "__or__", "__xor__"),
        *("eq", "ne", "any", "isnan", "where", "masked_fill", "cat", "stack", "full_like", "zeros_like", "ones_like"),
        *("_to_copy", "to", "clone", "copy", "alias", "detach", "contiguous", "lift_fresh_copy"),
        *(
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_copy",
            "flatten",
            "unflatten",
            "unsqueeze",
            "squeeze",
            "permute",
            "transpose",
            "t",
        ),
        *("expand", "expand_as", "repeat", "flip", "roll", "constant_pad_nd", "tril", "triu"),
        *("select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "index_select", "index"),
    )
)

#: Form of an operator -> why it cannot be converted; "" if it can.
_KNOWN: dict[Any, str] = {}

#: The largest number of forms that are kept.
_MOST = 1 << 14


def refusal(node: fx.Node) -> str:
    """Why torch-tensorrt cannot convert an operator, or the operators that it is decomposed into; "" if it can."""
    form = form_of(node)
    if form not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[form] = _refusal(node)
    return _KNOWN[form]


def _refusal(node: fx.Node) -> str:
    table, registry = _table(), _registry()
    if node.target in COPIES:
        return ""
    decomposed = node.target in table or node.target in DECOMPOSITIONS or node.target in EMBEDDING_BAGS
    if not decomposed and not _inner(node, registry):
        return ""
    function: Any = DECOMPOSITIONS.get(node.target, node.target)
    if node.target in EMBEDDING_BAGS:
        function = gathered(node)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = trace_call(node, function, table)
    except Exception as error:  # noqa: BLE001 - tracing runs any decomposition of torch and torch-tensorrt
        return f"torch cannot decompose {node.target}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    calls = [inner for inner in traced.graph.nodes if inner.op == "call_function" and not is_size(inner)]
    return next(filter(None, (_inner(inner, registry) for inner in calls)), "")


def _inner(node: fx.Node, registry: Any) -> str:
    if node.target in _AVOIDED:
        return _AVOIDED[node.target]
    if _is_of_booleans(node) and _name(node.target) not in _OF_BOOLEANS:
        return f"TensorRT has no {node.target} of booleans"
    if node.target in _REPLACED:
        return ""
    return "" if node in registry else f"torch-tensorrt has no converter for {node.target}"


def _is_of_booleans(node: fx.Node) -> bool:
    """Whether all tensors that an operator gets are booleans."""
    held = [source.meta.get("val") for source in node.all_input_nodes]
    types = {value.dtype for value in held if isinstance(value, torch.Tensor)}
    return types == {torch.bool}


def _name(target: Any) -> str:
    """The name of an operator without its overload."""
    return str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else ""


@functools.cache
def _registry() -> Any:
    package.module()
    conversion: Any = importlib.import_module("torch_tensorrt.dynamo.conversion")
    settings: Any = importlib.import_module("torch_tensorrt.dynamo").CompilationSettings
    found = conversion.DYNAMO_CONVERTERS
    found.set_compilation_settings(settings(**package.settings()))
    return found


@functools.cache
def _table() -> dict[Any, Any]:
    """Operator -> its decomposition, of those that torch-tensorrt decomposes."""
    package.module()
    lowering: Any = importlib.import_module("torch_tensorrt.dynamo.lowering")
    found: dict[Any, Any] = lowering.get_decompositions(decompose_attention=package.settings()["decompose_attention"])
    return found
