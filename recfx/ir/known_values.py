"""Fake values that were computed before, so that an operator over operands of the same form is not computed again.

A model that writes all pairs of its fields out calls the same few operators on tensors of the same few forms, thousands of times. A fake
kernel reasons about symbolic sizes and takes milliseconds; a look-up in a table takes microseconds. Nodes with equal forms share one fake
tensor. So storages and storage offsets of recorded values have no meaning, and a graph whose operators read them has no table.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

_aten = torch.ops.aten

#: Operators that read where a tensor lies in its memory.
READS_MEMORY = (
    _aten.as_strided.default,
    _aten.as_strided_copy.default,
    _aten.as_strided_scatter.default,
    _aten.set_.source_Tensor,
    _aten.sym_storage_offset.default,
)
#: Namespaces of operators whose fake kernels see only the forms of their operands.
NAMESPACES = ("aten", "recfx")
#: Types of arguments that are their own form.
PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_ATTRIBUTE = "recfx_known_values"
_FORM = "recfx_form"


class _Unknown(Exception):
    """An argument has no form that can be looked up."""


def known_values(mode: FakeTensorMode, graph: fx.Graph) -> KnownValues | None:
    """The table of a fake mode; None for a graph with operators that read where a tensor lies in its memory."""
    if any(graph.find_nodes(op="call_function", target=target, sort=False) for target in READS_MEMORY):
        return None
    found: KnownValues | None = getattr(mode, _ATTRIBUTE, None)
    if found is None:
        found = KnownValues()
        setattr(mode, _ATTRIBUTE, found)
    return found


class KnownValues:
    """Operator and forms of its operands -> its fake value; form of a parameter or buffer -> its fake value.

    Attributes:
        computed: How many values were put into the table.
        found: How many were looked up.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self.computed = 0
        self.found = 0

    def key(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the value of an operator depends on; None when the table cannot tell, so that the caller computes the value."""
        return form_of_call(target, args, kwargs)

    def get(self, key: Any) -> Any:
        """The value under a key; None when it is not in the table."""
        value = self._values.get(key)
        self.found += value is not None
        return value

    def put(self, key: Any, value: Any) -> None:
        """Keeps a value, unless data decides its sizes: each node has a symbol of its own then."""
        parts = value if isinstance(value, tuple | list) else (value,)
        if all(isinstance(p, FakeTensor | torch.SymInt) and not varies_by_data(p) for p in parts):
            self._values[key] = value
            self.computed += 1


def part_of(target: Any, args: tuple[Any, ...]) -> Any:
    """One of several values, where an operator picks it by its number; None for any other operator."""
    if target is not operator.getitem or not isinstance(args[0], list | tuple) or not isinstance(args[1], int):
        return None
    return args[0][args[1]] if -len(args[0]) <= args[1] < len(args[0]) else None


def form_of_call(target: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operator with the forms of its arguments; None where a fake kernel may see more of them, or where the operator writes."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in NAMESPACES:
        return None
    if target._schema.is_mutable:
        return None
    try:
        return target, _form(tuple(args)), tuple((name, _form(kwargs[name])) for name in sorted(kwargs))
    except _Unknown:
        return None


def form_of_state(tensor: torch.Tensor) -> Any:
    """What decides the fake value of a parameter or buffer, all of whose sizes are fixed; None where that is not known."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
        return None
    if tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        return None
    kind = type(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_leaf
    return *kind, tuple(tensor.shape), tensor.stride()


def tensor_form(tensor: FakeTensor) -> Any:
    """What a fake kernel can see of a tensor; None where that cannot be told."""
    try:
        return _tensor_form(tensor)
    except _Unknown:
        return None


def set_form(tensor: FakeTensor, form: Any) -> None:
    """Notes the form of a tensor that was made from one of the same form."""
    tensor.__dict__[_FORM] = form


def varies_by_data(value: Any) -> bool:
    """Whether data decides a size."""
    return bool(free_unbacked_symbols(value))


def _form(value: Any) -> Any:
    """What a fake kernel can see of an argument."""
    if isinstance(value, FakeTensor):
        return _tensor_form(value)
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_form, value))
    if isinstance(value, torch.SymInt):
        return torch.SymInt, value.node._expr
    raise _Unknown


def _tensor_form(tensor: FakeTensor) -> Any:
    """The form of a tensor; it is kept on the tensor, which operators of a functional graph do not change."""
    found = tensor.__dict__.get(_FORM)
    if found is None:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            raise _Unknown
        found = (
            FakeTensor,
            tensor.dtype,
            tensor.fake_device,
            tensor.requires_grad,
            tuple(map(_size_form, tensor.shape)),
            tuple(map(_size_form, tensor.stride())),
        )
        tensor.__dict__[_FORM] = found
    return found


def _size_form(size: Any) -> Any:
    return size.node._expr if isinstance(size, torch.SymInt) else size
