"""Decompositions of operators without a translation, traced once for each form of an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from recfx.ir.fake_kernels import batch_free_kernels
from recfx.onnx.rule import RULES
from recfx.onnx.types import Untranslated
from recfx.ops.library import DECOMPOSITIONS

_aten = torch.ops.aten

NO_DECOMPOSITION = "it has no decomposition"


def _decomposition(target: Any) -> Callable[..., Any] | None:
    """The decomposition of an operator: that of the dialect, torch's, or the implicit one of a composite operator."""
    if target in DECOMPOSITIONS:
        return DECOMPOSITIONS[target]
    found = torch._decomp.decomposition_table.get(target)
    if found is not None:
        return found
    return _composite(target) if isinstance(target, torch._ops.OpOverload) and _is_composite(target) else None


def _is_composite(target: Any) -> bool:
    return bool(target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def _composite(target: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: target.decompose(*args, **kwargs)


def expanded(node: fx.Node) -> tuple[fx.GraphModule, list[fx.Node]]:
    """An operator as a graph of others that have translations, and the nodes that are its inputs, in order.

    Raises:
        Untranslated: It has no decomposition, or its decomposition has operators without a translation.
    """
    function = _decomposition(node.target)
    if function is None:
        raise Untranslated(NO_DECOMPOSITION)
    arguments, layout = tree_flatten((node.args, dict(node.kwargs)))
    places = [at for at, one in enumerate(arguments) if isinstance(one, fx.Node)]

    def of_values(*values: Any) -> Any:
        given = list(arguments)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        args, kwargs = tree_unflatten(given, layout)
        return function(*args, **kwargs)

    inner: dict[Any, Any] = {
        target: found for target, found in torch._decomp.decomposition_table.items() if target not in RULES
    }
    inner |= {target: found for target, found in DECOMPOSITIONS.items() if target not in RULES}
    values = [_own_value(arguments[place]) for place in places]
    try:
        with torch.no_grad(), batch_free_kernels():
            traced = make_fx(of_values, decomposition_table=inner, tracing_mode="symbolic", pre_dispatch=True)(*values)
    except Exception as error:
        raise Untranslated(f"its decomposition cannot be traced: {type(error).__name__}") from error
    traced.graph.eliminate_dead_code()
    return traced, [arguments[place] for place in places]


def _own_value(node: fx.Node) -> Any:
    """The fake value of a node as a new object, since tracing identifies values by it."""
    value = node.meta.get("val")
    return _aten.alias.default(value) if isinstance(value, torch.Tensor) else value
