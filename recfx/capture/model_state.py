"""Snapshots of a model's state, which undo the changes that runs make.

Capture, comparison and measurement run the user's model many times. In a run, a model may count its calls, cache a table, append to a list
or write to a buffer. `ModelState` records the contents of the model and restores them. It does not copy weights: it makes shallow copies of
containers, and copies a tensor only before an operator writes to it.
"""

from __future__ import annotations

import argparse
import collections
import operator
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: The largest number of objects to record: more than a model has, fewer than an attached data set has.
_MOST_OBJECTS = 1_000_000
#: The largest NumPy array to copy. Arrays are copied at once, since torch cannot observe a write to them.
_COPIED_ARRAY_BYTES = 64 << 20
_PLAIN = (str, bytes, int, float, complex, bool, type(None), types.ModuleType, types.BuiltinFunctionType)
#: Packages whose objects do not belong to the model: loggers, locks, compiled code.
_FOREIGN = frozenset({*sys.stdlib_module_names, "torch", "numpy"})
_CONTAINERS = (dict, list, set, collections.deque, bytearray)


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[ModelState]:
    """A context that restores the model at its end, also after an error. It yields the state, which can be restored earlier as well."""
    state = ModelState(model)
    try:
        yield state
    finally:
        if lost := state.restore():
            warnings.warn(
                f"running the model changed tensors that could not be put back: {', '.join(lost)}; forward writes to them in place; "
                "reload their values, and write to a copy in forward",
                stacklevel=2,
            )


class ModelState:
    """The state of a model at one moment: attributes, containers, tensors, and the random generators of the process.

    Args:
        model: The model, with its submodules and the plain objects and containers in its attributes.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._undo: list[Callable[[], object]] = []
        self._tensors: dict[int, _TensorState] = {}
        self._seen: dict[int, Any] = {}
        self._walk(model)
        self._by_storage: dict[int, list[_TensorState]] = collections.defaultdict(list)
        for state in self._tensors.values():
            if state.storage is not None:
                self._by_storage[state.storage].append(state)
        self._process = _ProcessState()

    def restore(self) -> list[str]:
        """Restores the state.

        Returns:
            Descriptions of the tensors that could not be restored, because they were written to outside `watch`.
        """
        for undo in self._undo:
            undo()
        lost = [state.describe() for state in self._tensors.values() if not state.restore()]
        self._process.restore()
        return lost

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A context in which each tensor of the model is copied before an operator writes to it."""
        with _CopyOnWrite(self._by_storage):
            yield

    def _walk(self, root: Any) -> None:
        waiting = [root]
        while waiting and len(self._seen) < _MOST_OBJECTS:
            value = waiting.pop()
            if isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value  # kept alive, so that no other object gets the same id()
            if isinstance(value, torch.Tensor):
                self._tensors[id(value)] = _TensorState(value)
            elif isinstance(value, _CONTAINERS):
                waiting += self._remember_container(value)
            elif isinstance(value, tuple | frozenset):
                waiting += list(value)
            elif isinstance(value, types.FunctionType):
                waiting += self._remember_closure(value)
            elif isinstance(value, types.MethodType):
                waiting += [value.__self__, value.__func__]
            elif isinstance(value, torch.Generator):
                self._undo.append(partial(value.set_state, value.get_state()))
            elif isinstance(value, type):
                waiting += self._remember_class(value)
            elif (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.ndarray):
                self._remember_array(value)
            elif isinstance(value, torch.nn.Module) or _is_own(type(value)):
                waiting += [*self._remember_container(value.__dict__), type(value)]

    def _remember_container(self, container: Any) -> list[Any]:
        before: Any = dict(container) if isinstance(container, dict) else list(container)
        self._undo.append(lambda: _refill(container, before))
        entries = list(before.values()) if isinstance(before, dict) else before
        return [entry for entry in entries if not isinstance(entry, _PLAIN)]

    def _remember_closure(self, function: types.FunctionType) -> list[Any]:
        held = []
        for cell in function.__closure__ or ():
            try:
                before = cell.cell_contents
            except ValueError:  # the cell is empty
                continue
            self._undo.append(lambda cell=cell, before=before: setattr(cell, "cell_contents", before))  # type: ignore[misc]
            held.append(before)
        return held

    def _remember_class(self, owner: type) -> list[Any]:
        """Records the attributes of a user's class, such as a counter, and returns their values."""
        if not _is_own(owner):
            return []
        values = {name: v for name, v in vars(owner).items() if not name.startswith("__") and not callable(v)}

        def undo() -> None:
            for name, before in values.items():
                if vars(owner).get(name) is not before:
                    setattr(owner, name, before)

        self._undo.append(undo)
        return [v for v in values.values() if isinstance(v, _CONTAINERS)]

    def _remember_array(self, array: Any) -> None:
        if array.nbytes <= _COPIED_ARRAY_BYTES and array.flags.writeable:
            before = array.copy()
            self._undo.append(lambda: array.__setitem__(..., before))


def _is_own(owner: type) -> bool:
    """Whether a class is the user's own or a plain namespace, and its instances have a `__dict__`."""
    if issubclass(owner, types.SimpleNamespace | argparse.Namespace):
        return True
    return owner.__module__.partition(".")[0] not in _FOREIGN and any(
        "__dict__" in vars(base) for base in owner.__mro__
    )


def _refill(container: Any, before: Any) -> None:
    """Restores the entries of a container. An unchanged container is not touched, so that other threads never see it empty."""
    same = len(container) == len(before) and all(map(operator.is_, container, before))
    if same and isinstance(container, dict):
        same = all(map(operator.is_, container.values(), before.values()))
    if same:
        return
    container.clear()
    if isinstance(container, dict | set):
        container.update(before)
    else:
        container.extend(before)


class _TensorState:
    """One tensor: its storage, its `requires_grad`, and a copy of its values once an operator is about to write to it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.version = _version(tensor)
        plain = tensor.layout is torch.strided and type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        self.alias = tensor.detach() if plain else None
        self.storage = tensor.untyped_storage()._cdata if plain else None
        self.copy: torch.Tensor | None = None

    def keep_copy(self) -> None:
        """Copies the values before a write."""
        if self.copy is None and self.alias is not None:
            self.copy = self.alias.clone()

    def describe(self) -> str:
        sizes = "x".join(map(str, self.tensor.shape))
        return f"{str(self.tensor.dtype).removeprefix('torch.')}[{sizes}]"

    def restore(self) -> bool:
        """Restores the tensor; returns whether it has its recorded values again."""
        tensor, alias = self.tensor, self.alias
        if alias is not None:
            moved = tensor.untyped_storage()._cdata != self.storage or tensor.shape != alias.shape
            if moved or tensor.stride() != alias.stride() or tensor.storage_offset() != alias.storage_offset():
                tensor.data = alias
            if self.copy is not None and not torch.equal(alias, self.copy):
                with torch.no_grad():
                    alias.copy_(self.copy)
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if tensor.is_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        written = self.version != _version(tensor)
        self.version = _version(tensor)
        return not written or self.copy is not None


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class _CopyOnWrite(TorchDispatchMode):
    """Copies tensors of a model before an operator writes to their memory."""

    def __init__(self, by_storage: dict[int, list[_TensorState]]) -> None:
        super().__init__()
        self._by_storage = by_storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[position] if position < len(args) else kwargs.get(argument.name)
                    self._keep(given)
        return func(*args, **kwargs)

    def _keep(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                self._keep(item)
        elif isinstance(value, torch.Tensor) and value.layout is torch.strided:
            for state in self._by_storage.get(value.untyped_storage()._cdata, ()):
                state.keep_copy()


class _ProcessState:
    """State of the process that a run can change: random generators, the default dtype, and the gradient mode."""

    def __init__(self) -> None:
        self.torch_rng = torch.get_rng_state()
        self.python_rng = random.getstate()
        numpy = sys.modules.get("numpy.random")
        self.numpy_rng = numpy.get_state() if numpy is not None else None
        self.dtype = torch.get_default_dtype()
        self.grad = torch.is_grad_enabled()

    def restore(self) -> None:
        torch.set_rng_state(self.torch_rng)
        random.setstate(self.python_rng)
        if self.numpy_rng is not None:
            sys.modules["numpy.random"].set_state(self.numpy_rng)
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.grad)
