"""The forms of a trace's operands, and results that are made like earlier ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.fx.experimental.sym_node import SymNode

from recfx.ir.known_values import PLAIN, varies_by_data
from recfx.ir.row_tensors import any_bytes


class NoForm(Exception):
    """An argument has no form, so that its call must be traced in the plain way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a tensor of the trace.

    Attributes:
        tensor: The tensor; it is held so that no other object gets its id.
        form: What a fake kernel can see of it.
        sizes: Its symbolic sizes and strides, in order.
    """

    tensor: FakeTensor
    form: Any
    sizes: tuple[torch.SymInt, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Size:
    """A symbolic size of a result.

    Attributes:
        given: Its position among the symbolic sizes of the operands; -1 for a size that the operator computes.
        size: The size in the first call.
    """

    given: int
    size: torch.SymInt


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """How the result of an operator is made.

    Attributes:
        form: The form of the result.
        same: The position of the operand that is the result itself; -1 for another tensor.
        source: The position of the operand that the result is a view of; -1 for a tensor with its own memory.
        offset: The distance of a view from its operand, in elements.
        sizes: Sizes: numbers, or symbolic sizes.
        strides: Likewise.
        first: The first result.
        metadata: What the tracer records of the first result beside its fake value.
        differentiable: Whether the result requires a gradient in a plain trace.
    """

    form: Any
    same: int
    source: int
    offset: int
    sizes: tuple[int | _Size, ...]
    strides: tuple[int | _Size, ...]
    first: FakeTensor
    metadata: Any
    differentiable: bool

    @property
    def computes_sizes(self) -> bool:
        """Whether a symbolic size of the result is none of the operands'."""
        return any(isinstance(s, _Size) and s.given < 0 for s in (*self.sizes, *self.strides))

    def result(self, tensors: list[FakeTensor], given: list[torch.SymInt]) -> Seen:
        """The result for other operands of the same forms.

        Args:
            tensors: The tensors among the operands.
            given: The symbolic sizes of the operands.
        """
        if self.same >= 0:
            tensor = tensors[self.same]
            return Seen(tensor, self.form, symbolic_sizes(tensor))
        made: dict[int, torch.SymInt] = {}
        sizes, strides = _filled(self.sizes, given, made), _filled(self.strides, given, made)
        tensor = self._tensor(tensors, sizes, strides)
        return Seen(tensor, self.form, tuple(s for s in (*sizes, *strides) if not isinstance(s, int)))

    def _tensor(self, tensors: list[FakeTensor], sizes: list[Any], strides: list[Any]) -> FakeTensor:
        mode, dtype = self.first.fake_mode, self.first.dtype
        assert mode.shape_env is not None
        with in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards():
            if self.source >= 0:
                source: torch.Tensor = tensors[self.source]
                plain = source.as_strided(sizes, strides, int(source.storage_offset()) + self.offset)
            else:
                plain = any_bytes(dtype).as_strided(sizes, strides, 0)
        return FakeTensor(mode, plain, self.first.fake_device)


def step_of(
    result: FakeTensor, tensors: list[FakeTensor], given: list[torch.SymInt], metadata: Any, *, differentiable: bool
) -> Step | None:
    """How a result was made; None where each call must compute it.

    Args:
        result: The result of the first call.
        tensors: The tensors among its operands.
        given: The symbolic sizes of its operands.
        metadata: What the tracer records of the result beside its fake value.
        differentiable: Whether the result requires a gradient in a plain trace.
    """
    if result.constant is not None or result.fake_mode.shape_env is None:
        return None
    same = next((i for i, tensor in enumerate(tensors) if tensor is result), -1)
    sources = {id(tensor): i for i, tensor in enumerate(tensors) if _storage(tensor) == _storage(result)}
    source = next(iter(sources.values()), -1)
    offset = _distance(result, tensors[source] if source >= 0 else None)
    if offset is None or varies_by_data(result) or len(sources) > 1:
        return None
    if source >= 0 and tensors[source].dtype is not result.dtype:
        return None
    try:
        form = tensor_form(result, differentiable)
    except NoForm:
        return None
    places: dict[int, int] = {}
    for place, size in enumerate(given):
        places.setdefault(id(size.node), place)
    sizes, strides = _described(result.shape, places), _described(result.stride(), places)
    return Step(form, same, source, offset, sizes, strides, result, metadata, differentiable)


def tensor_form(tensor: FakeTensor, differentiable: bool) -> Any:
    """What an operator can see of a tensor.

    Args:
        tensor: The tensor.
        differentiable: Whether it requires a gradient in a plain trace.

    Raises:
        NoForm: The form is not known.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise NoForm
    sizes, strides = tuple(map(_size_form, tensor.shape)), tuple(map(_size_form, tensor.stride()))
    return FakeTensor, id(tensor.fake_mode), tensor.dtype, tensor.fake_device, differentiable, sizes, strides


def symbolic_sizes(tensor: FakeTensor) -> tuple[torch.SymInt, ...]:
    """The symbolic sizes and strides of a tensor, in order."""
    return tuple(s for s in (*tensor.shape, *tensor.stride()) if isinstance(s, torch.SymInt))


def plain_form(value: Any) -> Any:
    """The form of an argument that is neither a tensor nor a collection.

    Raises:
        NoForm: It has none.
    """
    if isinstance(value, torch.SymInt):
        return torch.SymInt, _size_form(value)
    if isinstance(value, PLAIN):
        return type(value), value
    raise NoForm


def _size_form(size: Any) -> Any:
    if not isinstance(size, torch.SymInt):
        return size
    if not isinstance(size.node, SymNode):
        raise NoForm
    return size.node._expr


def _described(sizes: Any, places: dict[int, int]) -> tuple[int | _Size, ...]:
    return tuple(_Size(places.get(id(s.node), -1), s) if isinstance(s, torch.SymInt) else s for s in sizes)


def _filled(sizes: tuple[int | _Size, ...], given: list[torch.SymInt], made: dict[int, torch.SymInt]) -> list[Any]:
    """The sizes of a result; `made` holds the computed ones, so that a size that occurs twice is one object, as in the first call."""
    found: list[Any] = []
    for size in sizes:
        if isinstance(size, int):
            found.append(size)
        elif size.given >= 0:
            found.append(given[size.given])
        else:
            node = size.size.node
            if id(node) not in made:
                made[id(node)] = torch.SymInt(SymNode(node._expr, node.shape_env, int, node._hint))
            found.append(made[id(node)])
    return found


def _distance(result: FakeTensor, source: FakeTensor | None) -> int | None:
    """How far a result lies behind its operand in memory; None where that is not a number."""
    offsets = (result.storage_offset(), source.storage_offset() if source is not None else 0)
    first, last = offsets
    return first - last if isinstance(first, int) and isinstance(last, int) else None


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
