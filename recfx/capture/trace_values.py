"""Fake kernels run once for each form of their operands while a model is traced.

A trace needs a fake tensor with a storage of its own for every call: proxies are found by the tensor, and writes by the storage. But its
sizes, strides and dtype are those of the first call with operands of the same form, and making a tensor of them takes less time than a
fake kernel that reasons about symbolic sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from recfx.ir.known_values import form_of_call, set_form, tensor_form, varies_by_data
from recfx.ir.quick_shapes import quick_value

#: The operator that fake kernels of slices and splits call for each of their results.
_AS_STRIDED = torch.ops.aten.as_strided.default


@dataclasses.dataclass(frozen=True)
class _Made:
    """The fake result of an operator.

    Attributes:
        form: The form of the tensor.
        sizes: Its sizes.
        strides: Its strides.
        dtype: Its dtype.
        device: Its device.
    """

    form: Any
    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    dtype: torch.dtype
    device: torch.device


class TraceValues:
    """Operator and forms of its operands -> the form of its result.

    Attributes:
        computed: How many fake kernels ran whose results are kept.
        copied: How many results were made like kept ones.
    """

    def __init__(self) -> None:
        self._made: dict[Any, _Made | None] = {}
        self.computed = 0
        self.copied = 0

    def dispatch(
        self, own: Callable[..., Any], mode: FakeTensorMode, func: Any, types: Any, args: Any, kwargs: Any
    ) -> Any:
        """The fake result of one operator.

        Args:
            own: The fake mode's own dispatch.
            mode: The fake mode.
            func: The operator.
            types: Types of the tensors among the arguments.
            args: Positional arguments.
            kwargs: Keyword arguments.
        """
        if func is _AS_STRIDED and not kwargs and type(args[0]) is FakeTensor and args[0].constant is None:
            return _as_strided(mode, *args)
        if mode.shape_env is None or not _varies(args):
            return own(mode, func, types, args, kwargs)

        def computed() -> Any:
            quick = quick_value(func, args, kwargs)
            return own(mode, func, types, args, kwargs) if quick is None else quick

        form = form_of_call(func, args, kwargs) if _gives_a_new_tensor(func) else None
        if form is None:
            return computed()
        key = id(mode), form
        if key in self._made:
            made = self._made[key]
            return computed() if made is None else self._copy(mode, made)
        result = computed()
        with torch._C.DisableTorchFunction():  # these questions are not the model's
            self._made[key] = _kept(result, args)
        self.computed += 1
        return result

    def _copy(self, mode: FakeTensorMode, made: _Made) -> FakeTensor:
        assert mode.shape_env is not None
        with in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards():
            plain = torch.empty_strided(made.sizes, made.strides, dtype=made.dtype, device="meta")
        found = FakeTensor(mode, plain, made.device)
        set_form(found, made.form)
        self.copied += 1
        return found


def _as_strided(mode: FakeTensorMode, source: FakeTensor, *places: Any) -> FakeTensor:
    """What the fake mode returns for `as_strided`, which has no kernel that reasons about sizes."""
    with in_kernel_invocation_manager(mode):
        plain = _AS_STRIDED(source, *places)
    return FakeTensor(mode, plain, source.fake_device)


def _gives_a_new_tensor(func: Any) -> bool:
    """Whether an operator gives one tensor that is neither random nor, as far as its schema says, a view of an argument."""
    if not isinstance(func, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in func.tags:
        return False
    returns = func._schema.returns
    return len(returns) == 1 and str(returns[0].type) == "Tensor" and returns[0].alias_info is None


def _varies(args: Any) -> bool:
    """Whether an argument is a fake tensor without a constant value; fake modes compute with constants."""
    return any(
        (isinstance(a, FakeTensor) and a.constant is None) or (isinstance(a, list | tuple) and _varies(a)) for a in args
    )


def _kept(result: Any, args: Any) -> _Made | None:
    """What is kept of a result; None where each call must compute it."""
    if not isinstance(result, FakeTensor) or result.requires_grad or result.constant is not None:
        return None
    form = tensor_form(result)
    if form is None or varies_by_data(result) or _storage(result) in map(_storage, _tensors(args)):
        return None
    return _Made(form, tuple(result.shape), tuple(result.stride()), result.dtype, result.fake_device)


def _tensors(args: Any) -> Iterator[torch.Tensor]:
    for value in args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
