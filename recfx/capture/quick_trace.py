"""A context in which a trace records calls like earlier calls, without running what it ran before.

It replaces methods of torch that are not part of its interface. Where torch has no such methods, traces are as torch makes them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

from sympy.solvers import inequalities
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor, symbolic_shapes

from recfx.capture.late_code import recompile_later
from recfx.capture.trace_functions import TraceFunctions
from recfx.capture.trace_nodes import TraceNodes
from recfx.capture.trace_sources import TraceSources
from recfx.capture.trace_values import TraceValues


@dataclasses.dataclass(frozen=True)
class QuickTrace:
    """The tables of one trace.

    Attributes:
        values: Results of fake kernels.
        sources: Source lines of nodes.
        nodes: Results of recorded operators; None for a trace that records every operator in torch's way.
        functions: Answers of torch functions; None likewise.
        kept: Functions in whose place an export calls no other one.
    """

    values: TraceValues
    sources: TraceSources
    nodes: TraceNodes | None = None
    functions: TraceFunctions | None = None
    kept: set[Any] = dataclasses.field(default_factory=set)

    @property
    def differs(self) -> bool:
        """Whether an operator was not recorded in torch's way, or the model read what only a plain trace holds."""
        return self.refused or (self.nodes is not None and self.nodes.recorded > 0)

    @property
    def refused(self) -> bool:
        """Whether the model read what only a plain trace holds."""
        return self.functions is not None and self.functions.refused


class _Replaced:
    """A method of a class, or a function of a module, that is replaced while a trace runs."""

    def __init__(self, holder: Any, name: str, parameters: tuple[str, ...], call: Callable[..., Any]) -> None:
        self.holder, self.name, self.call = holder, name, call
        self.own: Any = getattr(holder, name, None)
        self.users = 0
        self.known = callable(self.own) and tuple(inspect.signature(self.own).parameters) == parameters

    def put(self) -> None:
        own, call = self.own, self.call

        def method(*args: Any, **kwargs: Any) -> Any:
            trace: QuickTrace | None = getattr(_active, "trace", None)
            return own(*args, **kwargs) if trace is None else call(trace, own, *args, **kwargs)

        setattr(self.holder, self.name, method)

    def put_back(self) -> None:
        setattr(self.holder, self.name, self.own)


def _values(trace: QuickTrace, own: Callable[..., Any], mode: Any, *call: Any) -> Any:
    return trace.values.dispatch(own, mode, *call)


def _nodes(
    trace: QuickTrace, own: Callable[..., Any], mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None
) -> Any:
    if trace.nodes is None:
        return own(mode, func, types, args, kwargs)
    return trace.nodes.dispatch(own, mode, func, types, args, kwargs or {})


def _functions(
    trace: QuickTrace, own: Callable[..., Any], mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None
) -> Any:
    if trace.functions is None:
        return own(mode, func, types, args, kwargs)
    return trace.functions.call(own, mode, func, types, args, kwargs or {})


def _sources(trace: QuickTrace, own: Callable[..., Any], tracer: Any, *args: Any, **kwargs: Any) -> Any:
    return trace.sources.create_node(own, tracer, *args, **kwargs)


def _metadata(trace: QuickTrace, own: Callable[..., Any], tensor: Any, *options: Any) -> Any:
    return own(tensor, *options) if trace.nodes is None else trace.nodes.metadata(own, tensor, *options)


def _inequalities(trace: QuickTrace, own: Callable[..., Any], inequalities: Any, symbols: Any) -> Any:
    return _range_of(own, frozenset(inequalities), symbols)


@lru_cache(maxsize=256)
def _range_of(own: Callable[..., Any], inequalities: frozenset[Any], symbol: Any) -> Any:
    """The solution of inequalities. Traces of small models spend a tenth of their time on the same few about the batch."""
    return own(inequalities, symbol)


def _new_sizes(trace: QuickTrace, own: Callable[..., Any], value: Any, *rest: Any, **options: Any) -> Any:
    """The sizes that data decides in a value, of those in `pending`; the search through a value takes as long where none is pending."""
    pending = options.get("pending")
    return {} if pending is not None and not pending else own(value, *rest, **options)


def _is_call_name(trace: QuickTrace, own: Callable[..., Any], call_name: str, base: str) -> Any:
    """Whether a submodule is `base`, or a further call of it. An export asks for every pair of neighbours."""
    return call_name == base or (call_name.startswith(base) and own(call_name, base))


def _eager_inputs(trace: QuickTrace, own: Callable[..., Any], target: Any, *rest: Any) -> Any:
    """Whether a node records its inputs, which for ATen operators their tags decide."""
    return _tags_ask(own, target) if type(target) is OpOverload else own(target, *rest)


@cache
def _tags_ask(own: Callable[..., Any], target: OpOverload) -> Any:
    return own(target)


def _override(trace: QuickTrace, own: Callable[..., Any], mode: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """The function in place of one that the model calls. An export has others for collectives, `torch.tensor` and indexing."""
    if type(func) not in _STABLE or func.__name__ in _BY_ARGUMENTS:
        return own(mode, func, args, kwargs)
    if func in trace.kept:
        return func, args, kwargs
    found = own(mode, func, args, kwargs)
    if found[0] is func:
        trace.kept.add(func)
    return found


def _late_code(trace: QuickTrace, own: Callable[..., Any], module: Any) -> Any:
    return recompile_later(own, module)


_CALL = ("self", "func", "types", "args", "kwargs")
_VALUES = _Replaced(FakeTensorMode, "_dispatch_impl", _CALL, _values)
_NODES = _Replaced(getattr(proxy_tensor, "ProxyTorchDispatchMode", None), "__torch_dispatch__", _CALL, _nodes)
_FUNCTIONS = _Replaced(
    getattr(proxy_tensor, "TorchFunctionMetadataMode", None), "__torch_function__", _CALL, _functions
)
_SOURCES = _Replaced(
    getattr(proxy_tensor, "_ModuleStackTracer", None), "create_node", ("self", "args", "kwargs"), _sources
)
_METADATA = _Replaced(proxy_tensor, "_extract_tensor_metadata", ("result", "include_contiguity"), _metadata)
_INEQUALITIES = _Replaced(inequalities, "reduce_inequalities", ("inequalities", "symbols"), _inequalities)
_NEW_SIZES = _Replaced(
    symbolic_shapes,
    "_free_unbacked_symbols_with_path",
    ("a", "path", "real", "shape_env", "pending", "simplify"),
    _new_sizes,
)
_EAGER_INPUTS = _Replaced(proxy_tensor, "_should_save_eager_input_vals", ("target", "args_kwargs"), _eager_inputs)
#: The module, which has the name of a function of its package.
_UNFLATTEN = importlib.import_module("torch.export.unflatten")
_CALL_NAMES = _Replaced(_UNFLATTEN, "_is_call_name", ("call_name", "base"), _is_call_name)
_CODE = _Replaced(GraphModule, "recompile", ("self",), _late_code)
#: Types of functions that are one object at each call.
_STABLE = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
#: Functions that an export replaces for some arguments.
_BY_ARGUMENTS = ("__getitem__", "tensor")
#: Functions of torch that `TraceNodes` calls.
_CALLED = (
    "extract_val",
    "track_tensor",
    "fetch_sym_proxy",
    "_ProxyTensor",
    "_enable_thunkify",
    "disable_proxy_modes_tracing",
)

#: Methods that are replaced while a model is traced.
_TRACING = (_VALUES, _NODES, _FUNCTIONS, _SOURCES, _METADATA, _INEQUALITIES, _NEW_SIZES, _EAGER_INPUTS, _CODE)

_patching = threading.Lock()
_active = threading.local()


@cache
def _late() -> tuple[_Replaced, ...]:
    """Methods of a module that torch imports at the first export."""
    module = importlib.import_module("torch._export.non_strict_utils")
    holder = getattr(module, "_NonStrictTorchFunctionHandler", None)
    return (_Replaced(holder, "_override", ("self", "func", "args", "kwargs"), _override),)


def records_quickly() -> bool:
    """Whether this torch has the methods that `TraceNodes` needs."""
    return _NODES.known and _FUNCTIONS.known and all(hasattr(proxy_tensor, name) for name in _CALLED)


@contextmanager
def quick_trace(*, nodes: bool = True) -> Iterator[QuickTrace]:
    """Within it, traces of this thread keep results; gives the tables.

    Args:
        nodes: Whether operators whose operands have the forms of an earlier call are recorded without running them.
    """
    trace = QuickTrace(TraceValues(), TraceSources())
    if nodes and records_quickly():
        table = TraceNodes()
        trace = dataclasses.replace(trace, nodes=table, functions=TraceFunctions(table))
    methods = (*_TRACING, *_late())
    try:
        with _active_trace(trace, methods):
            yield trace
    finally:
        trace.sources.release()


@contextmanager
def late_code() -> Iterator[None]:
    """Within it, graph modules of this thread generate their code at their first call, and exports put state into modules quickly."""
    with _active_trace(QuickTrace(TraceValues(), TraceSources()), (_CODE, _CALL_NAMES)):
        yield


@contextmanager
def quick_values() -> Iterator[None]:
    """Within it, fake modes of this thread keep the results of their kernels."""
    with _active_trace(QuickTrace(TraceValues(), TraceSources()), (_VALUES,)):
        yield


@contextmanager
def _active_trace(trace: QuickTrace, methods: tuple[_Replaced, ...]) -> Iterator[None]:
    """Within it, methods of torch are replaced, and those that this thread calls use `trace`."""
    before = getattr(_active, "trace", None)
    known = [method for method in methods if method.known]
    _use(known, 1)
    _active.trace = trace
    try:
        yield
    finally:
        _active.trace = before
        _use(known, -1)


def _use(methods: list[_Replaced], change: int) -> None:
    """Replaces methods for their first user, and puts them back after the last."""
    with _patching:
        for method in methods:
            method.users += change
            if method.users == (1 if change > 0 else 0):
                method.put() if change > 0 else method.put_back()
