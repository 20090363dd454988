"""The outputs of a program that one check computed, for later checks of the same program on the same inputs.

A capture compares its program with the model on drawn inputs. The comparison behind the pipeline draws the same inputs, and needs the same
outputs. Small models of thousands of operators spend more time on them than on any pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ir.graph_reading import GraphReading
from recfx.ir.program import Program

#: Bytes of the inputs and outputs of one run that are kept at most. Where they are more, arithmetic takes the time, and not the operators.
_LARGEST = 1 << 20


class KnownRuns:
    """Inputs -> outputs of one program, as long as nobody edits its graph or writes to its state.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        self._module, self._graph = program.module, GraphReading(program.graph)
        self._state = _versions(program)
        self._runs: list[tuple[list[Any], list[Any]]] = []

    def run(self, program: Program, leaves: Sequence[Any]) -> list[Any]:
        """The outputs of a program, which are kept."""
        outputs = program.run(leaves)
        if sum(map(_bytes, (*leaves, *outputs))) <= _LARGEST:
            self._runs.append((list(leaves), list(outputs)))
        return outputs

    def find(self, program: Program, leaves: Sequence[Any]) -> list[Any] | None:
        """The outputs of an earlier run on inputs of the same bits; None where there was none, or the program is another one now."""
        held = next((outputs for given, outputs in self._runs if _same_leaves(given, leaves)), None)
        if held is None or program.module is not self._module or not self._graph.is_of(program.graph):
            return None
        now = _versions(program)
        same = self._state is not None and now is not None and len(now) == len(self._state)
        if not same or any(t is not u or v != w for (t, v), (u, w) in zip(now or (), self._state or (), strict=True)):
            return None
        return list(held)


def known_outputs(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """The outputs of a program for flat inputs: those of an earlier check where it computed them, otherwise of a run."""
    held = program.known_runs
    found = held.find(program, leaves) if isinstance(held, KnownRuns) else None
    return program.run(leaves) if found is None else found


def _versions(program: Program) -> list[tuple[torch.Tensor, int]] | None:
    """The tensors of a program's state, and how often each was written to; None where a tensor does not count its writes."""
    tensors = program.state().values()
    if any(not isinstance(t, torch.Tensor) or t.is_inference() for t in tensors):
        return None
    return [(t, t._version) for t in tensors]


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _same_leaves(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(_same_leaf, first, second))


def _same_leaf(first: Any, second: Any) -> bool:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return type(first) is type(second) and bool(first == second)
    if type(first) is not type(second) or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    if first.layout is not torch.strided or second.layout is not torch.strided or first.device != second.device:
        return False
    return first.stride() == second.stride() and torch.equal(_bits(first), _bits(second))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, in which NaN equals NaN, and 0 and -0 differ."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)
