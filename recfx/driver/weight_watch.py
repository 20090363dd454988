"""Detects changes of a model's weights after they were compiled.

A compiled model shares its tables with the user's model, so that no second copy of gigabytes is made, and has its own packed copies of
the dense weights. Further training therefore changes one part of the served values and not the other. torch counts the writes to every
tensor. Each call compares one of these counts, which costs a fifth of a microsecond. A training step writes to all tensors, so that the
next call sees it.

Writes through `tensor.data` or NumPy are not counted by torch and cannot be seen here.
"""

from __future__ import annotations

import copy
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping

import torch

from recfx.errors import InputError
from recfx.ir.program import Program, dense_parts, get_state


class WeightWatch:
    """The write counters of a model's tensors at the time they were compiled.

    Keeps no tensor alive: a tensor that the user's model gave up can no longer change the served values.

    Args:
        tensors: Name -> parameter or buffer.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        counted = {n: t for n, t in tensors.items() if not t.is_inference()}
        self._entries: list[tuple[Callable[[], torch.Tensor | None], int]] = [
            (weakref.ref(tensor), tensor._version) for tensor in counted.values()
        ]
        self._names = list(counted)
        self._next = itertools.cycle(self._entries or [(_no_tensor, 0)]).__next__

    def compare_next(self) -> bool:
        """Compares the next counter; returns whether it is unchanged."""
        reference, version = self._next()
        tensor = reference()
        return tensor is None or tensor._version == version

    def changed(self) -> list[str]:
        """Names of all tensors that were written to."""
        found = zip(self._names, self._entries, strict=True)
        return [n for n, (reference, version) in found if (t := reference()) is not None and t._version != version]

    def warn(self, *, saving: bool = False, stacklevel: int = 3) -> None:
        """Warns, once for every call of this method, that weights changed."""
        names = self.changed()
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        what = "The saved model holds" if saving else "It now serves"
        warnings.warn(
            f"weights of the model changed after recfx.optimize: {shown}. {what} the new values of the tensors that it shares with your "
            "model (tables), and its own copies of the old values of all others (dense weights, and tensors computed from weights). "
            "Call refresh() to take over all weights, or optimize with copy_weights=True to keep the old ones.",
            UserWarning,
            stacklevel=stacklevel,
        )


def _no_tensor() -> None:
    """Stands for the reference to a tensor if no tensor is watched."""


def watch_weights(model: torch.nn.Module, captured: Program) -> WeightWatch:
    """Watches the parameters and buffers of a model whose memory or values its captured program uses."""
    used = {str(node.target) for node in captured.graph.find_nodes(op="get_attr") if node.users}
    storages = {memory for name in used for memory in _memory(get_state(captured.module, name))}
    return WeightWatch({n: t for n, t in _state(model) if n in captured.decided or _memory(t) & storages})


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model with its own weights.

    Raises:
        InputError: The model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"copy_weights=True needs a copy of the model, and copying it failed ({type(error).__name__}: {error})",
            where=type(model).__name__,
            hint="give the module a __deepcopy__, or leave copy_weights out and call refresh() after training on",
        ) from error


def _state(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _memory(tensor: torch.Tensor) -> set[int]:
    return {part.untyped_storage()._cdata for part in dense_parts(tensor)}
