"""Fake-value propagation: the dtype and symbolic shape of every node of a program, without running the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols

from recfx.errors import VerificationError
from recfx.ir import size_expressions
from recfx.ir.fake_kernels import REPLACED, batch_free_kernels
from recfx.ir.known_values import KnownValues, form_of_state, known_values, part_of
from recfx.ir.program import get_state
from recfx.ir.provenance import where
from recfx.ir.quick_shapes import quick_value
from recfx.ir.sizes import dimension_names
from recfx.ir.true_sizes import with_true_sizes
from recfx.ir.verified import is_verified, remember


def fake_mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake mode of the placeholders' values; a new mode when no placeholder holds a tensor."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode
    return FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)


def propagate(
    module: fx.GraphModule, nodes: Iterable[fx.Node] | None = None, *, own_memory: bool = False
) -> dict[fx.Node, Any]:
    """Computes the fake value of every node from the placeholders' `meta["val"]`, without storing it.

    Args:
        module: The graph module.
        nodes: The nodes to compute, in graph order; other nodes keep the value in their `meta`. All nodes by default.
        own_memory: Give each node a value of its own, whose storage is that of its operand where the operator gives a view. Otherwise
            nodes of equal forms share one value.

    Returns:
        Node -> fake value (tensor, SymInt, number, or a tuple or list of those).

    Raises:
        VerificationError: An operator rejects the shapes or dtypes of its arguments.
    """
    mode = fake_mode_of(module.graph)
    known = None if own_memory else known_values(mode, module.graph)
    values: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        return values[node] if node in values else node.meta.get("val")

    for node in module.graph.nodes if nodes is None else nodes:
        values[node] = compute(node, module, value_of, mode, known)
    return values


def compute(
    node: fx.Node,
    module: torch.nn.Module,
    value_of: Callable[[fx.Node], Any],
    mode: FakeTensorMode,
    known: KnownValues | None = None,
) -> Any:
    """The fake value of one node.

    Args:
        node: The node.
        module: Holds the state.
        value_of: Node -> fake value, for its operands.
        mode: The fake mode of these values.
        known: Values that were computed before, which are not computed again.

    Raises:
        VerificationError: The operator rejects the shapes or dtypes of its arguments.
    """
    if node.op == "call_function":
        return _call(node, value_of, mode, known)
    if node.op == "get_attr":
        return _fake_state(module, node, mode, known)
    if node.op == "output":
        return fx.map_arg(node.args[0], value_of)
    return node.meta.get("val")


def refresh(module: fx.GraphModule, nodes: Iterable[fx.Node] | None = None) -> None:
    """Stores the fake value of every node (or of `nodes`, in graph order) in its `meta["val"]`.

    Operators keep a recorded value that a verification has already found right.

    Raises:
        VerificationError: An operator rejects the shapes or dtypes of its arguments.
    """
    mode = fake_mode_of(module.graph)
    known = known_values(mode, module.graph)
    for node in module.graph.nodes if nodes is None else nodes:
        if node.op != "output" and not is_verified(node):
            node.meta["val"] = compute(node, module, _recorded, mode, known)
            node.meta.pop("tensor_meta", None)
            remember(node)


def _recorded(node: fx.Node) -> Any:
    return node.meta.get("val")


def free_symbols(module: fx.GraphModule) -> set[str]:
    """The free symbols in the sizes of the placeholders."""
    names: set[str] = set()
    for node in module.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for size in value.shape:
                if isinstance(size, torch.SymInt):
                    names |= {str(symbol) for symbol in size.node.expr.free_symbols}
    return names


def fake_inputs(
    shapes: Iterable[tuple[tuple[int | str, ...], torch.dtype, torch.device]],
    *,
    mode: FakeTensorMode | None = None,
    symbols: dict[str, Any] | None = None,
) -> list[torch.Tensor]:
    """New fake tensors, with one symbol for each dimension name, for graphs without a trace.

    Args:
        shapes: Sizes (integers, dimension names or expressions over names), dtype and device of each tensor.
        mode: The fake mode; a new one by default.
        symbols: Dimension name -> its symbol in the mode; the symbols of new names are added to it.
    """
    shapes = list(shapes)
    mode = mode or FakeTensorMode(shape_env=ShapeEnv())
    # The key of a cache entry holds the symbols of the sizes. A new mode has new symbols, so every look-up would miss and cost time.
    mode.cache_enabled = False
    known: dict[str, Any] = {} if symbols is None else symbols
    for name in dict.fromkeys(n for sizes, _, _ in shapes for entry in sizes for n in dimension_names(entry)):
        if name not in known:
            known[name] = new_size(mode, name, 7 + len(known))

    def size(entry: int | str) -> Any:
        return entry if isinstance(entry, int) else size_expressions.evaluate(entry, known)

    with mode:
        return [torch.empty([size(s) for s in sizes], dtype=dtype, device=device) for sizes, dtype, device in shapes]


def new_size(mode: FakeTensorMode, name: str, hint: int = 7) -> Any:
    """Creates a dynamic size in the shape environment of a fake mode.

    Args:
        mode: The fake mode; it must have a shape environment.
        name: The name of the size in error messages.
        hint: An example value of the size.
    """
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    env, source = mode.shape_env, ConstantSource(name)
    assert env is not None
    symbol = env.create_symbol(hint, source, DimDynamic.DYNAMIC, constraint_dim=None)
    return env.create_symintnode(symbol, hint=hint, source=source)


def _call(node: fx.Node, value_of: Any, mode: FakeTensorMode, known: KnownValues | None) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    part = part_of(node.target, args)
    if part is not None:
        return part
    key = None if known is None else known.key(node.target, args, kwargs)
    value = None if known is None or key is None else known.get(key)
    if value is None:
        if known is None or key is None:
            return _computed(node, args, kwargs, mode)
        cached, mode.cache_enabled = (
            mode.cache_enabled,
            False,
        )  # each form is computed once: torch's own cache would only be filled
        try:
            value = _computed(node, args, kwargs, mode)
        finally:
            mode.cache_enabled = cached
        known.put(key, value)
    return value


def _computed(node: fx.Node, args: Any, kwargs: Any, mode: FakeTensorMode) -> Any:
    env = mode.shape_env
    assert callable(node.target)
    try:
        # Without the Python dispatcher, C++ composite kernels (gru, conv1d) read sizes as numbers, which fixes the batch.
        kernels = batch_free_kernels() if node.target in REPLACED and env is not None else nullcontext()
        with torch.no_grad(), mode, enable_python_dispatcher(), kernels:
            if env is None:
                return node.target(*args, **kwargs)
            if (quick := quick_value(node.target, args, kwargs)) is not None:
                return quick
            with env.ignore_fresh_unbacked_symbols():
                result = with_true_sizes(node.target, node.target(*args, **kwargs), args)
    except Exception as error:
        described = ", ".join(_describe(a) for a in args)
        raise VerificationError(
            f"{node.target} rejects its arguments: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=f"{where(node)} with ({described})",
        ) from error
    recorded = node.meta.get("val")
    if recorded is not None and _fresh_unbacked(result, args, kwargs):
        return recorded  # a data-dependent size keeps the symbol it already has
    return result


def _fresh_unbacked(result: Any, args: Any, kwargs: Any) -> bool:
    made = free_unbacked_symbols(result) if _sized(result) else set()
    if not made:
        return False
    had: set[Any] = set()
    for value in torch.utils._pytree.tree_leaves((args, kwargs)):
        if _sized(value):
            had |= free_unbacked_symbols(value)
    return bool(made - had)


def _sized(value: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(value)
    return bool(leaves) and all(
        isinstance(v, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool) for v in leaves
    )


def _fake_state(module: torch.nn.Module, node: fx.Node, mode: FakeTensorMode, known: KnownValues | None) -> Any:
    tensor = get_state(module, str(node.target))
    if not isinstance(tensor, torch.Tensor):
        return tensor
    key = None if known is None else form_of_state(tensor)
    if known is None or key is None:
        return mode.from_tensor(tensor, static_shapes=True)
    value = known.get(key)
    if value is None:
        value = mode.from_tensor(tensor, static_shapes=True)
        known.put(key, value)
    return value


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value) if not isinstance(value, list | tuple) else f"[{', '.join(_describe(v) for v in value)}]"
