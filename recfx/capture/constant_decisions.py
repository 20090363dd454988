"""Decisions of forward that do not depend on the inputs, but on a buffer, a parameter, or a mask that forward builds.

A tracer sees a parameter as a tensor without values, so `if self.flag:`, `self.scale.item()` or the test for a causal mask in
`nn.TransformerEncoder` stop it. Such a decision is the same at every call. One run of the model records the value of each decision, and
the trace reads the recorded value at the same place. Decisions that depend on an input are not recorded, and stop the tracer.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from recfx.capture.encoder_padding import padded_with_zeros
from recfx.capture.inputs import Call
from recfx.capture.model_state import unchanged

#: The (file, line) of the calls that lead to a decision, innermost first, and the number of times that the run has reached it.
Place = tuple[tuple[tuple[str, int], ...], int]

_DEPTH = 4
_INPUT = ""  # the source name of all inputs; no parameter has this name
_READS: frozenset[Any] = frozenset(
    {
        torch.Tensor.__bool__,
        torch.Tensor.__int__,
        torch.Tensor.__float__,
        torch.Tensor.__index__,
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.is_nonzero,
        torch.Tensor.equal,
        torch.Tensor.allclose,
        torch.is_nonzero,
        torch.equal,
        torch.allclose,
    }
)
_MACHINERY = (
    "recfx/capture/",
    "recfx/ir/",
    "torch/_export/",
    "torch/_subclasses/",
    "torch/overrides.py",
    "torch/utils/_",
    "torch/fx/",
    "torch/_ops.py",
)


@dataclasses.dataclass
class Decisions:
    """Values that forward reads from tensors and that do not depend on the inputs.

    Attributes:
        values: Place -> the value read there.
        state: Names of the parameters and buffers from which forward computed the values.
    """

    values: dict[Place, Any] = dataclasses.field(default_factory=dict)
    state: set[str] = dataclasses.field(default_factory=set)


def record_decisions(model: torch.nn.Module, call: Call) -> Decisions:
    """Runs the model once and returns all decisions that do not depend on the inputs.

    Args:
        model: The model; its state is restored.
        call: The inputs of the model.
    """
    given = pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, tuple(call.values))
    fresh = call.with_values(given)
    inputs = _tensors(given)
    found = Decisions()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # If the model fails, the earlier decisions are kept. The comparison with the model reports the error.
    with (
        unchanged(model) as before,
        before.watch(),
        padded_with_zeros(),
        torch.no_grad(),
        suppress(Exception),
        _Sources(inputs, state) as sources,
        _Recorder(sources, found),
    ):
        model(*fresh.args, **fresh.kwargs)
    return found


@contextmanager
def replayed(decisions: Decisions) -> Iterator[None]:
    """A context in which a read at a recorded place returns the recorded value."""
    with _Replay(decisions.values):
        yield


def reads_values(exported: torch.export.ExportedProgram) -> bool:
    """Whether a program reads numbers out of tensors, so that some sizes or scalars are unknown until a call."""
    reads = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
    return any(exported.graph.find_nodes(op="call_function", target=read) for read in reads)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class _Sources(TorchDispatchMode):
    """Tracks the parameters, buffers and inputs from which the contents of each memory were computed.

    Args:
        inputs: The tensors of the call.
        state: The model's parameters and buffers, by name.

    Attributes:
        numbers_of_inputs: Whether forward has read a number from a tensor that depends on an input. Any number that forward writes into a
            tensor afterwards may depend on it.
    """

    def __init__(self, inputs: Sequence[torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.numbers_of_inputs = False
        # Tensors stay alive, so that no other tensor reuses their memory while the model runs.
        self._held: list[torch.Tensor] = []
        self._sources: dict[int, frozenset[str]] = {}
        for name, tensor in state.items():
            self._add([tensor], frozenset({name}))
        self._add(inputs, frozenset({_INPUT}))

    def of(self, tensors: Iterable[torch.Tensor]) -> frozenset[str]:
        """The sources of tensors; `_INPUT` for a tensor whose memory is unknown."""
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            known = tensor.layout is torch.strided
            found |= self._sources.get(tensor.untyped_storage()._cdata, frozenset()) if known else {_INPUT}
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        read = _tensors((args, kwargs))
        sources = self.of(read)
        if torch.Tag.nondeterministic_seeded in func.tags or self._may_hold_numbers(func, args, kwargs, sources):
            sources |= {_INPUT}
        self._add(_tensors(found) + (read if func._schema.is_mutable else []), sources)
        return found

    def _may_hold_numbers(self, func: Any, args: Any, kwargs: Any, sources: frozenset[str]) -> bool:
        """Whether a result may hold a number that depends on an input: it comes from no known tensor, or from a number as well."""
        if not self.numbers_of_inputs:
            return False
        numbers = {argument.name for argument in func._schema.arguments if "number" in str(argument.type)}
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        return not sources or any(given.get(name) is not None for name in numbers)

    def _add(self, tensors: Sequence[torch.Tensor], sources: frozenset[str]) -> None:
        self._held += tensors
        for tensor in tensors:
            if tensor.layout is torch.strided and sources:
                memory = tensor.untyped_storage()._cdata
                self._sources[memory] = self._sources.get(memory, frozenset()) | sources


class _Places(BaseTorchFunctionMode):
    """Determines the place of each decision."""

    def __init__(self) -> None:
        super().__init__()
        self._reached: collections.Counter[tuple[tuple[str, int], ...]] = collections.Counter()

    def _place(self) -> Place:
        lines: list[tuple[str, int]] = []
        frame = sys._getframe(2)
        while frame is not None and len(lines) < _DEPTH:
            name = frame.f_code.co_filename
            if not any(part in name for part in _MACHINERY):
                lines.append((name, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        found = tuple(lines)
        self._reached[found] += 1
        return found, self._reached[found]


class _Recorder(_Places):
    def __init__(self, sources: _Sources, found: Decisions) -> None:
        super().__init__()
        self._sources, self._found = sources, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if func in _READS:
            sources = self._sources.of(_tensors((args, kwargs)))
            self._sources.numbers_of_inputs |= _INPUT in sources
            # A trace of `tolist` reads one number after another, so each number has its own place.
            for number in pytree.tree_leaves(value):
                place = self._place()
                if _INPUT not in sources:
                    self._found.values[place] = number
                    self._found.state |= sources
        return value


class _Replay(_Places):
    def __init__(self, decisions: Mapping[Place, Any]) -> None:
        super().__init__()
        self._decisions = decisions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS and (place := self._place()) in self._decisions:
            return self._decisions[place]
        return func(*args, **(kwargs or {}))
