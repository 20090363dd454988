"""Checks that the kernels of a plan read and write elements of the dtypes of their slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from recfx.errors import TargetError
from recfx.kernels.codes import Kind
from recfx.kernels.slots import AttentionInt, AttentionView, CodeDotView, RecurrentView, TakeView
from recfx.targets.native.steps import Slot, Step

Dtypes = frozenset[torch.dtype]

_FLOAT: Dtypes = frozenset({torch.float32})
_IDS: Dtypes = frozenset({torch.int64, torch.int32})
_MASK: Dtypes = frozenset({torch.bool})
_WHOLE: Dtypes = _IDS | _MASK
_NUMBERS: Dtypes = _FLOAT | _WHOLE
_READ: Dtypes = _NUMBERS | {torch.uint8}

#: Kind -> the dtypes of its inputs and of its output; float32 for a kind that is not listed.
_ELEMENTS: dict[Kind, tuple[Dtypes, Dtypes]] = {
    Kind.POINTWISE: (_READ, _FLOAT | _MASK),
    Kind.INTEGER: (_READ, _WHOLE),
    Kind.INTEGER_SUM: (_READ, frozenset({torch.int64})),
    Kind.FOLD: (_READ, _NUMBERS),
    Kind.ROW_NUMBERS: (_FLOAT, _NUMBERS),
    Kind.ORDER: (_NUMBERS, frozenset({torch.int64})),
}


def check_dtypes(slots: Sequence[Slot], steps: Sequence[Step]) -> None:
    """Checks the dtype of every slot that a step of a plan reads or writes. Most kernels read float32 without a check.

    Args:
        slots: The plan's slots.
        steps: Its steps.

    Raises:
        TargetError: A kernel would read or write a slot with another dtype.
    """
    for number, step in enumerate(steps):
        for name, slot, allowed in _uses(slots, step):
            if slots[slot].dtype not in allowed:
                takes = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in allowed))
                raise TargetError(
                    f"step {number} ({step.kind.name.lower()}) takes {takes} as {name}, and slot {slot} holds {slots[slot].dtype}",
                    hint="this is a fault of recfx's native backend: please report it, and pass target='eager'",
                )


def _uses(slots: Sequence[Slot], step: Step) -> Iterator[tuple[str, int, Dtypes]]:
    """The slots that a step reads and writes: role, slot, allowed dtypes."""
    read, written = _ELEMENTS.get(step.kind, (_FLOAT, _FLOAT))
    if step.kind is Kind.TAKE:  # elements are copied as they are
        written = frozenset({slots[step.views[TakeView.SOURCE].slot].dtype})
    yield "output", step.out.slot, written
    for number, view in step.views.items():
        yield f"input {int(number)}", view.slot, _of_view(step, number, written if step.kind is Kind.TAKE else read)
    for feature in step.features:
        for name, allowed in (("ids", _IDS), ("offsets", _IDS), ("weights", _FLOAT)):
            if feature[name] >= 0:
                yield name, feature[name], allowed


def _of_view(step: Step, number: int, others: Dtypes) -> Dtypes:
    """The dtypes of one input, where `others` are those of the other inputs of the kind."""
    if (step.kind, number) in ((Kind.CODE_DOT, CodeDotView.IDS), (Kind.TAKE, TakeView.INDEX)):
        return _IDS
    if step.kind is Kind.RECURRENT and number == RecurrentView.LENGTHS:
        return frozenset({torch.int64})
    if step.kind is Kind.ATTENTION and number == AttentionView.MASK:
        return _MASK if step.ints[AttentionInt.MASK_IS_BOOLEAN] else _FLOAT
    return others
