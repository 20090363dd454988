"""The out-of-place form of each in-place operator, and of each operator that writes to `out=`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from recfx.errors import CaptureError
from recfx.ir.provenance import where
from recfx.ir.sizes import same_size

_aten = torch.ops.aten

#: In-place operators that are named after Python's augmented assignments.
_AUGMENTED = ("__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__")


def is_inplace(node: fx.Node) -> bool:
    """Whether the node writes to one of its arguments."""
    target = node.target
    return (
        node.op == "call_function" and isinstance(target, torch._ops.OpOverload) and _written_index(target) is not None
    )


def written_argument(node: fx.Node) -> fx.Node:
    """The argument that an in-place node writes to.

    Raises:
        CaptureError: The node writes to several tensors, which has no functional form here.
    """
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    index = _written_index(target)
    assert index is not None
    name = target._schema.arguments[index].name
    written = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    several = sum(map(_is_written, target._schema.arguments)) > 1
    if several or not isinstance(written, fx.Node):
        raise CaptureError(
            f"{target} writes to its arguments in a form that cannot be made functional",
            where=where(node),
            hint="use the operator that returns a new tensor",
        )
    return written


def functional_call(graph: fx.Graph, node: fx.Node, like: fx.Node) -> fx.Node:
    """Inserts the out-of-place form of an in-place node; its result has the dtype and shape of `like`.

    Raises:
        CaptureError: The operator has no such form, or gives its `out=` another size.
    """
    target, args = node.target, node.args
    value = like.meta["val"]
    source: Any = args[1] if len(args) > 1 else None
    if target is _aten.copy_.default:
        new = _converted(graph, source, args[0], value, node)
    elif target is _aten.zero_.default:
        new = graph.call_function(_aten.zeros_like.default, (args[0],))
    elif target is _aten.fill_.Scalar:
        new = graph.call_function(_aten.full_like.default, (args[0], source))
    elif target is _aten.fill_.Tensor:
        new = _converted(graph, source, args[0], value, node)
    else:
        outs = {argument.name for argument in target._schema.arguments if argument.is_out}  # type: ignore[union-attr]
        kwargs = {name: given for name, given in node.kwargs.items() if name not in outs}
        new = graph.call_function(functional_overload(node), args, kwargs)
        new.meta = dict(node.meta)
        result = _result(new)
        if outs:
            _require_size(node, result, value)
        if result is not None and result.dtype is not value.dtype:
            new = graph.call_function(_aten.to.dtype, (new, value.dtype))
    if new is not source:
        new.meta = {**node.meta, "val": value}
    return new


def _converted(graph: fx.Graph, source: fx.Node, target: Any, value: torch.Tensor, node: fx.Node) -> fx.Node:
    """Converts and broadcasts `source` to the dtype and shape of `target`."""
    held = source.meta.get("val")
    if not isinstance(held, torch.Tensor) or held.dtype is not value.dtype:
        source = graph.call_function(_aten.to.dtype, (source, value.dtype))
        source.meta = dict(node.meta)
    if not isinstance(held, torch.Tensor) or tuple(held.shape) != tuple(value.shape):
        source = graph.call_function(_aten.expand_as.default, (source, target))
        source.meta = dict(node.meta)
    return source


def _result(node: fx.Node) -> torch.Tensor | None:
    """An out-of-place node's result, from a run on fake values; None without tensors."""
    fakes = [n.meta.get("val") for n in node.all_input_nodes]
    tensor = next((f for f in fakes if isinstance(f, torch.Tensor)), None)
    if tensor is None:
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
    assert callable(node.target)
    with tensor.fake_mode, torch.no_grad(), enable_python_dispatcher():  # type: ignore[attr-defined]
        result = node.target(*args, **kwargs)
    return result if isinstance(result, torch.Tensor) else None


def _require_size(node: fx.Node, result: torch.Tensor | None, written: torch.Tensor) -> None:
    """Refuses an operator that gives its `out=` another size, which torch does with a warning."""
    if result is None or result.ndim != written.ndim or not all(map(same_size, result.shape, written.shape)):
        raise CaptureError(
            f"{node.target} writes to an out= of another size than its result",
            where=where(node),
            hint="use the operator that returns a new tensor",
        )


def functional_overload(node: fx.Node) -> torch._ops.OpOverload:
    """The out-of-place operator of an in-place node.

    Raises:
        CaptureError: The operator has none that is known.
    """
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    namespace, name = target._schema.name.split("::")
    plain = f"__{name[3:]}" if name in _AUGMENTED else name.removesuffix("_")
    packet = getattr(getattr(torch.ops, namespace), plain, None)
    into = target._schema.arguments[-1].is_out
    if packet is not None and (into or plain != name):
        wanted = [str(a.type) for a in target._schema.arguments if not a.is_out]
        for overload in packet.overloads():
            candidate: torch._ops.OpOverload = getattr(packet, overload)
            if _written_index(candidate) is None and [str(a.type) for a in candidate._schema.arguments] == wanted:
                return candidate
    raise CaptureError(
        f"{target} writes to its argument and has no out-of-place form known to recfx",
        where=where(node),
        hint="use the operator that returns a new tensor",
    )


def _written_index(target: torch._ops.OpOverload) -> int | None:
    return next((index for index, argument in enumerate(target._schema.arguments) if _is_written(argument)), None)


def _is_written(argument: torch._C.Argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
