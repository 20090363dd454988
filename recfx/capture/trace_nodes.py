"""Operators of a trace that are recorded without running their fake kernels: a call whose operands have the forms of an earlier call.

`torch.export` records an operator, and runs its fake kernel with all operators that it consists of. For the second call with operands of
the same forms, the node is recorded in the same way, and the result is made like the first result: a new tensor, a view of an operand, or
the operand itself. Symbolic sizes that the first call took from its operands are taken from the operands again, so that sizes that the
model reads later belong to the same nodes as in a plain trace. Operators that give parts of a tensor run, and the node of each part is
recorded in the same way.

Results that are made like others have no autograd history. `trace_functions` answers or refuses questions of the model about it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Proxy
from torch.fx import traceback as fx_traceback
from torch.fx.experimental import proxy_tensor
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.utils import _pytree as pytree

from recfx.capture.trace_forms import NoForm, Seen, Step, plain_form, step_of, symbolic_sizes, tensor_form
from recfx.ir.known_values import NAMESPACES, READS_MEMORY, varies_by_data
from recfx.ir.op_sets import DROPOUTS

_aten = torch.ops.aten
_REFUSED_TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded)
#: Operators with one of these tags that are recorded for some operands; see `_is_for_operands`.
_SOMETIMES = (_aten.index.Tensor, *DROPOUTS)
_DETACHES = (_aten.detach.default, _aten.detach_.default)
#: Operators that give a list of views of their first operand.
_IN_PARTS = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unbind.int)
#: Operators that the tracer does not record as they are called, and operators that read where a tensor lies in memory.
_REFUSED = (_aten.lift_fresh.default, _aten.is_nonzero.default, *READS_MEMORY)


@dataclasses.dataclass(slots=True)
class _Call:
    """An operator with its operands.

    Attributes:
        tensors: The tensors among the operands.
        sizes: Their symbolic sizes, and the symbolic sizes among the operands.
        key: The operator, the forms of its operands, and what else decides its result.
    """

    tensors: list[FakeTensor] = dataclasses.field(default_factory=list)
    sizes: list[torch.SymInt] = dataclasses.field(default_factory=list)
    key: Any = None


class TraceNodes:
    """Operator and forms of its operands -> how its result is made.

    Attributes:
        recorded: How many operators were recorded otherwise than by torch's tracer.
    """

    def __init__(self) -> None:
        self._steps: dict[Any, Step | None] = {}
        self._recordable: dict[Any, bool] = {}
        self._metadata: dict[Any, Any] = {}
        self._seen: dict[int, Seen] = {}
        #: Tensors without autograd history that have one in a plain trace.
        self._differentiable: dict[int, torch.Tensor] = {}
        #: Tensors whose number of elements the tracer does not know, with their proxies and tracers.
        self._uncounted: dict[int, tuple[Any, Any]] = {}
        self.recorded = 0

    def dispatch(self, own: Callable[..., Any], mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Records one operator.

        Args:
            own: The tracing mode's own dispatch.
            mode: The tracing mode.
            func: The operator.
            types: Types of the tensors among the arguments.
            args: Positional arguments.
            kwargs: Keyword arguments.
        """
        with torch._C.DisableTorchFunction():
            call = self._call(mode, func, args, kwargs)
            step = self._steps.get(call.key) if call is not None else None
            if call is not None and step is not None:
                return self._record(mode.tracer, func, call, step, args, kwargs)
        if call is not None and func in _IN_PARTS and _is_fixed(args):
            return self._record_parts(mode.tracer, func, args, kwargs)
        result = own(mode, func, types, args, kwargs)
        with torch._C.DisableTorchFunction():
            self._note(func, (args, kwargs), result)
            if call is not None and call.key not in self._steps:
                self._steps[call.key] = self._step(func, call, result, mode.tracer)
        return result

    def metadata(self, own: Callable[..., Any], tensor: Any, *options: Any) -> Any:
        """What the tracer records of a tensor beside its fake value.

        Args:
            own: The tracer's own function.
            tensor: The tensor.
            options: Further arguments of the function.
        """
        try:
            form = tensor_form(tensor, bool(tensor.requires_grad)) if type(tensor) is FakeTensor else None
        except NoForm:
            form = None
        if form is None or options:
            return own(tensor, *options)
        if form not in self._metadata:
            self._metadata[form] = own(tensor)
        return self._metadata[form]

    def requires_gradient(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor requires a gradient in a plain trace."""
        return bool(tensor.requires_grad) or id(tensor) in self._differentiable

    def count(self, tensor: torch.Tensor) -> None:
        """Lets the tracer know the number of elements of a tensor, as it knows that of every tensor of a plain trace."""
        held = self._uncounted.pop(id(tensor), None)
        if held is not None:
            proxy, tracer = held
            present = tracer.tensor_tracker.get(tensor)
            with (
                proxy_tensor.disable_proxy_modes_tracing()
            ):  # the number is an operator's result, and not a product of sizes
                _track_fully(tensor, proxy, tracer)
            tracer.tensor_tracker[tensor] = present

    def forget(self, tensor: torch.Tensor) -> None:
        """Drops what is known of a tensor that changes."""
        self._seen.pop(id(tensor), None)

    def _call(self, mode: Any, func: Any, args: Any, kwargs: Any) -> _Call | None:
        """An operator with its operands; None where the plain way must record it."""
        if not self._is_quick(mode, func, args):
            return None
        call, tracer = _Call(), mode.tracer
        try:
            forms = self._form(args, call), tuple([(name, self._form(kwargs[name], call)) for name in kwargs])
        except NoForm:
            return None
        slots = [tracer.tensor_tracker.get(tensor) for tensor in call.tensors]
        if not slots or None in slots or all(slot.constant is not None for slot in slots):
            return None
        if all(tensor.constant is not None for tensor in call.tensors):  # fake modes compute with constants
            return None
        first: dict[int, int] = {}
        pattern = tuple([first.setdefault(id(size.node), place) for place, size in enumerate(call.sizes)])
        env = call.tensors[0].fake_mode.shape_env
        known = len(env.replacements) if env is not None else -1
        call.key = func, forms, pattern, torch.is_grad_enabled(), torch.get_default_dtype(), known
        return call

    def _is_quick(self, mode: Any, func: Any, args: Any) -> bool:
        recordable = self._recordable.get(func)
        if recordable is None:
            recordable = self._recordable[func] = _is_recordable(func)
        return (
            recordable
            and mode.pre_dispatch
            and func not in mode.decomposition_table
            and not mode.emulate_precision_casts
            and (func not in _SOMETIMES or _is_for_operands(func, args))
            and not fx_traceback.has_preserved_node_meta()
            and not torch._C._is_any_autocast_enabled()
        )

    def _form(self, value: Any, call: _Call) -> Any:
        kind = type(value)
        if kind is FakeTensor:
            seen = self._seen.get(id(value))
            if seen is None:
                seen = Seen(value, tensor_form(value, self.requires_gradient(value)), symbolic_sizes(value))
                self._seen[id(value)] = seen
            call.tensors.append(value)
            call.sizes += seen.sizes
            return seen.form
        if kind is tuple or kind is list:
            return kind, tuple([self._form(part, call) for part in value])
        if kind is torch.SymInt:
            call.sizes.append(value)
        return plain_form(value)

    def _record(self, tracer: Any, func: Any, call: _Call, step: Step, args: Any, kwargs: Any) -> FakeTensor:
        self.recorded += 1
        name = tracer.graph._target_to_str(func.overloadpacket.__name__)
        node = tracer.create_node("call_function", func, _nodes(args, tracer), _nodes(kwargs, tracer), name)
        with proxy_tensor._enable_thunkify(
            tracer
        ):  # arithmetic on sizes is recorded where an operator reads its result
            made = step.result(call.tensors, call.sizes)
        node.meta["val"] = proxy_tensor.extract_val(made.tensor)
        node.meta["tensor_meta"] = step.metadata
        tensor, proxy = made.tensor, tracer.proxy(node)
        self._seen[id(tensor)] = made
        if step.differentiable and not tensor.requires_grad:
            self._differentiable[id(tensor)] = tensor
        if step.computes_sizes:
            _track_fully(tensor, proxy, tracer)
        else:
            self._track(tracer, tensor, made.sizes, proxy)
        return tensor

    def _record_parts(self, tracer: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operator that gives parts of a tensor, and records it with a node for each part."""
        self.recorded += 1
        with torch._C.DisableTorchFunction():
            name = tracer.graph._target_to_str(func.overloadpacket.__name__)
            node = tracer.create_node("call_function", func, _nodes(args, tracer), _nodes(kwargs, tracer), name)
        with proxy_tensor._enable_thunkify(tracer):
            parts = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            held: Any = proxy_tensor.extract_val(parts)
            node.meta["val"] = held
            self._note(func, (args, kwargs), parts)
            for place, (part, value) in enumerate(zip(parts, held, strict=True)):
                proxy = tracer.proxy(tracer.create_node("call_function", operator.getitem, (node, place), {}))
                proxy.node.meta["val"] = value
                proxy.node.meta["tensor_meta"] = self.metadata(_extract_tensor_metadata, part)
                self._track(tracer, part, symbolic_sizes(part), proxy)
        return parts

    def _track(self, tracer: Any, tensor: FakeTensor, sizes: tuple[torch.SymInt, ...], proxy: Any) -> None:
        """Lets the tracer know a result."""
        tracked = tracer.symnode_tracker.sym_node_dict
        if type(tensor.storage_offset()) is not int or any(size.node not in tracked for size in sizes):
            _track_fully(tensor, proxy, tracer)
            return
        tracer.tensor_tracker[tensor] = proxy_tensor._ProxyTensor(proxy, None)
        self._uncounted.setdefault(id(tensor), (proxy, tracer))

    def _step(self, func: Any, call: _Call, result: Any, tracer: Any) -> Step | None:
        """How the tracer made a result; None where each call must compute it."""
        slot = tracer.tensor_tracker.get(result) if type(result) is FakeTensor else None
        if slot is None or slot.constant is not None or slot.proxy.node.target is not func:
            return None
        metadata = slot.proxy.node.meta.get("tensor_meta")
        return step_of(result, call.tensors, call.sizes, metadata, differentiable=self.requires_gradient(result))

    def _note(self, func: Any, operands: Any, result: Any) -> None:
        """Notes what an operator did that was recorded in the plain way: it may have changed tensors, and results may need a gradient."""
        tensors = [t for t in pytree.tree_leaves(operands) if isinstance(t, torch.Tensor)]
        results = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        if not isinstance(func, torch._ops.OpOverload) or func._schema.is_mutable:
            for tensor in (*tensors, *results):
                self.forget(tensor)
        if not torch.is_grad_enabled() or func in _DETACHES or _is_factory(func):
            return
        if any(id(tensor) in self._differentiable for tensor in tensors):
            self._differentiable.update({id(t): t for t in results if t.is_floating_point() or t.is_complex()})


def _track_fully(tensor: torch.Tensor, proxy: Any, tracer: Any) -> None:
    """Lets the tracer know a tensor, its sizes and its number of elements; it records a size when an operator reads it."""
    with proxy_tensor._enable_thunkify(tracer):
        proxy_tensor.track_tensor(tensor, proxy, constant=None, tracer=tracer)


def _is_recordable(func: Any) -> bool:
    """Whether an operator gives one tensor that depends only on the forms of its operands, or parts of one."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace not in NAMESPACES or func in _REFUSED:
        return False
    if _is_factory(func):
        return False
    if func._schema.is_mutable or (any(tag in func.tags for tag in _REFUSED_TAGS) and func not in _SOMETIMES):
        return False
    returns = func._schema.returns
    return func in _IN_PARTS or (len(returns) == 1 and str(returns[0].type) == "Tensor")


def _is_fixed(args: Any) -> bool:
    """Whether the arguments behind a tensor are numbers, and data decides none of the tensor's sizes."""
    numbers = (number for given in args[1:] for number in (given if type(given) in (tuple, list) else (given,)))
    return all(type(number) is int for number in numbers) and not varies_by_data(args[0])


def _is_factory(func: Any) -> bool:
    """Whether an operator makes a tensor from nothing (`zeros_like`).

    If anybody else holds its result, torch gives its caller an untraced copy of it.
    """
    schema = getattr(func, "_schema", None)
    return schema is not None and any(argument.name == "pin_memory" for argument in schema.arguments)


def _is_for_operands(func: Any, args: Any) -> bool:
    """Whether operands with values that a fake kernel reads are absent: masks, whose values decide sizes, and dropout in training."""
    if func in DROPOUTS:
        return len(args) == 3 and not args[2]
    return all(index is None or index.dtype in (torch.int64, torch.int32) for index in args[1])


def _nodes(value: Any, tracer: Any) -> Any:
    """Operands as the graph holds them."""
    kind = type(value)
    if kind is FakeTensor:
        return tracer.tensor_tracker[value].proxy.node
    if kind is tuple or kind is list:
        return kind([_nodes(part, tracer) for part in value])
    if kind is dict:
        return {name: _nodes(part, tracer) for name, part in value.items()}
    if kind is torch.SymInt:
        size = proxy_tensor.fetch_sym_proxy(tracer)(value)
        return size.node if isinstance(size, Proxy) else size
    return value
