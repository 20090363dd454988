"""Inlining of `no_grad` and autocast regions, which export hides in sub-graphs.

A `no_grad` region has no effect at inference. The casts of an autocast region become nodes of the graph. To find them, each operator of
the region runs on fake tensors under autocast, and a dispatch mode records the arguments that are cast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from recfx.errors import CaptureError
from recfx.ir.provenance import where

_HIGHER_ORDER = torch.ops.higher_order


def inline_regions(module: fx.GraphModule) -> int:
    """Inlines every `no_grad` and autocast region, including nested regions, in place; returns their number.

    Raises:
        CaptureError: Autocast casts a value inside a composite operator, not one of its arguments.
    """
    count = 0
    while (node := _next_region(module)) is not None:
        _inline(module, node)
        count += 1
    if count:
        module.graph.lint()
        module.recompile()
    return count


def _next_region(module: fx.GraphModule) -> fx.Node | None:
    regions = (_HIGHER_ORDER.wrap_with_set_grad_enabled, _HIGHER_ORDER.wrap_with_autocast)
    return next((node for node in module.graph.nodes if node.target in regions), None)


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    if node.target is _HIGHER_ORDER.wrap_with_autocast:
        device, dtype, enabled, cache = node.args[:4]
        body, operands = node.args[4], node.args[5:]
        context: _Autocast | None = _Autocast(str(device), dtype, bool(enabled), bool(cache))
    else:
        body, operands = node.args[1], node.args[2:]
        context = None
    assert isinstance(body, fx.Node)
    region = getattr(module, str(body.target))
    values = dict(zip(region.graph.find_nodes(op="placeholder"), operands, strict=True))
    with module.graph.inserting_before(node):
        outputs = copy_region(module, region, values, context)
    for user in list(node.users):
        user.replace_all_uses_with(outputs[user.args[1]])  # export reads the results of a region with getitem
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    if not body.users:
        module.graph.erase_node(body)
        delattr(module, str(body.target))


def copy_region(
    module: fx.GraphModule, region: fx.GraphModule, values: dict[fx.Node, Any], context: _Autocast | None = None
) -> Any:
    """Copies the nodes of a sub-graph to the graph of a module.

    Args:
        module: The module. The nodes go to the place at which its graph inserts.
        region: The sub-graph.
        values: Input of the sub-graph -> its value. The nodes of the sub-graph and their copies are added.
        context: Autocast of the region, whose casts are written into the graph.

    Returns:
        The results of the sub-graph, as its output node holds them.
    """
    for inner in region.graph.nodes:
        if inner.op == "placeholder":
            continue
        if inner.op == "output":
            return fx.map_arg(inner.args[0], lambda n: values[n])
        if inner.op == "get_attr":
            nested = f"{inner.target}_inlined_{len(values)}"
            setattr(module, nested, getattr(region, str(inner.target)))
            copied = module.graph.get_attr(nested)
            copied.meta = dict(inner.meta)
        else:
            copied = module.graph.node_copy(inner, lambda n: values[n])
            copied.meta = dict(inner.meta)
            if context is not None and inner.op == "call_function":
                context.write_casts(module.graph, copied)
        values[inner] = copied
    raise CaptureError("a sub-graph has no output", hint="report this model as a bug of recfx")


class _Autocast:
    """The state of one autocast region."""

    def __init__(self, device: str, dtype: Any, enabled: bool, cache: bool) -> None:
        self.device, self.dtype, self.enabled, self.cache = device, dtype, enabled, cache

    def write_casts(self, graph: fx.Graph, node: fx.Node) -> None:
        """Inserts the casts of `node`'s arguments before it."""
        sources = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        if not self.enabled or not sources or not isinstance(node.target, torch._ops.OpOverload):
            return
        watcher = _CastWatcher({id(n.meta["val"]): n for n in sources})
        fakes = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val", n))
        fake_mode: FakeTensorMode = sources[0].meta["val"].fake_mode
        with (
            torch.no_grad(),
            fake_mode,
            enable_python_dispatcher(),
            torch.autocast(self.device, dtype=self.dtype, cache_enabled=False),
            watcher,
        ):
            node.target(*fakes[0], **fakes[1])
        if watcher.foreign:
            raise CaptureError(
                "autocast casts a value inside a composite operator, which cannot be written into the graph",
                where=where(node),
                hint="call this operator outside the autocast block, or cast its inputs yourself",
            )
        replaced: dict[fx.Node, fx.Node] = {}
        with graph.inserting_before(node):
            for source, dtype in watcher.casts.items():
                cast = graph.call_function(torch.ops.aten.to.dtype, (source, dtype))
                cast.meta = {**node.meta, "val": source.meta["val"].to(dtype)}
                replaced[source] = cast
        node.args = fx.map_arg(node.args, lambda n: replaced.get(n, n))
        node.kwargs = fx.map_arg(node.kwargs, lambda n: replaced.get(n, n))


class _CastWatcher(TorchDispatchMode):
    """Records the known tensors that an operator casts to another dtype before any other use."""

    def __init__(self, known: dict[int, fx.Node]) -> None:
        super().__init__()
        self.known = known
        self.casts: dict[fx.Node, torch.dtype] = {}
        self.foreign = False
        self._computing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is not None:
            source = self.known.get(id(args[0]))
            if source is None:
                self.foreign = self._computing
            else:
                self.casts[source] = kwargs["dtype"]
        else:
            self._computing = True
        return func(*args, **kwargs)
