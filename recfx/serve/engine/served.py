"""`Served`: what an engine needs of the thing that it serves, such as a compiled model or a recommender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from recfx.serve.engine.tensor_info import TensorInfo, shown


class Updatable(Protocol):
    """What takes new rows or items while it is served."""

    def check(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Checks whether `update` would take a change, and writes nothing.

        Raises:
            InputError: It would not.
        """
        ...

    def update(self, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Makes a change visible; the number of changes so far, and the rows of this one.

        Raises:
            RecfxError: It is refused, or cannot be written.
        """
        ...

    def follow(self) -> int:
        """Applies the changes of other processes; returns how many there were.

        Raises:
            RecfxError: The journal is damaged.
        """
        ...

    def document(self) -> dict[str, Any]:
        """What can be changed, for clients."""
        ...


class Served(Protocol):
    """Named tensors in, named tensors out."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    joinable: str | None
    divisible: str | None
    runs_on_own_kernels: bool

    @property
    def updates(self) -> Updatable:
        """Its changes."""
        ...

    @property
    def most_rows(self) -> int | None:
        """The rows of a call at most; None without a limit."""
        ...

    def leaves(self, tensors: Mapping[str, torch.Tensor]) -> list[Any]:
        """The flat inputs of a request.

        Raises:
            InputError: Names, dtypes or shapes do not fit.
        """
        ...

    def rows(self, leaves: Sequence[Any]) -> int:
        """The rows of a request.

        Raises:
            InputError: Inputs have different numbers of rows.
        """
        ...

    def call(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """The outputs of flat inputs.

        Raises:
            InputError: The inputs do not fit.
        """
        ...

    def join(self, requests: Sequence[Sequence[Any]]) -> list[Any]:
        """The flat inputs of one call for several requests."""
        ...

    def divide(self, outputs: Sequence[torch.Tensor], rows: Sequence[int]) -> list[list[torch.Tensor]]:
        """The outputs of each request of a joined call."""
        ...


def difference(one: Served, other: Served) -> str | None:
    """None if two models take and return the same tensors; otherwise the first difference."""
    for kind, own, others in (("input", one.inputs, other.inputs), ("output", one.outputs, other.outputs)):
        for info in dict.fromkeys((*own, *others)):
            if info not in own or info not in others:
                side = "the model that is served" if info in own else "the new model"
                return f"only {side} has the {kind} {info.name}: {info.datatype}{shown(info.shape)}"
    return None
