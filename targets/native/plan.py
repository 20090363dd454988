"""A finished plan: its C structs and its memory."""

from __future__ import annotations

import ctypes
import heapq
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from recfx.errors import TargetError
from recfx.kernels.abi import DTYPES, CFeature, CSlot, CStep, CView
from recfx.kernels.codes import Kind, Place, WeightFormat
from recfx.kernels.library import Library
from recfx.kernels.memory import address
from recfx.kernels.slots import CinInt, GemmInt, LookupPointer
from recfx.targets.native.bounds import check_bounds
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.slot_dtypes import check_dtypes
from recfx.targets.native.steps import Slot, Step, View

#: Scratch of one block of rows, so that it stays in a core's own cache.
_BLOCK_BYTES = 768 << 10
_MOST_BLOCK_BYTES = 16 << 20
_MOST_ROWS = 256
_WEIGHT_BYTES = {WeightFormat.F32: 4, WeightFormat.BF16: 2, WeightFormat.I8: 1}
_FEW_POINTERS = 8

#: Kinds of products -> the arguments that give the sizes and the format of the weight.
_PRODUCTS: dict[Kind, tuple[int, int, int]] = {
    Kind.GEMM: (GemmInt.OUTPUTS, GemmInt.INPUTS, GemmInt.FORMAT),
    Kind.CIN: (CinInt.OUTPUTS, CinInt.INPUTS, CinInt.FORMAT),
}


class Plan:
    """A plan of the library, and the memory to which it points.

    Args:
        library: The kernel library.
        level: The instruction-set level.
        builder: The slots and steps.
        arguments: Slots of inputs and outputs, in the order of the caller's pointers.

    Raises:
        TargetError: A step would read or write outside a slot or with another dtype, or there is not enough memory for the plan.
    """

    def __init__(self, library: Library, level: str, builder: PlanBuilder, arguments: Sequence[int]) -> None:
        self.steps = builder.steps
        check_bounds(builder.slots, self.steps)
        check_dtypes(builder.slots, self.steps)
        self._kept: list[Any] = [builder.packer.kept]
        slots = self._slots(builder, arguments)
        steps = (CStep * len(self.steps))(*(self._step(step) for step in self.steps))
        self._kept += [slots, steps]
        self.handle: int = library.calls["recfx_plan_new"](
            level.encode(), slots, len(slots), steps, len(steps), _block(self.steps, builder.slots, slots)
        )
        if not self.handle:
            raise TargetError("there is not enough memory for a plan", hint="free memory, or pass target='eager'")
        weakref.finalize(self, library.calls["recfx_plan_free"], self.handle)

    def _slots(self, builder: PlanBuilder, arguments: Sequence[int]) -> Any:
        groups = _groups(builder)
        positions = {slot: position for position, slot in enumerate(arguments)}
        slots = (CSlot * len(builder.slots))()
        for number, (slot, c) in enumerate(zip(builder.slots, slots, strict=True)):
            c.kind, c.dtype, c.once = int(slot.place), DTYPES[slot.dtype], int(slot.once)
            c.row_stride = 0 if slot.once else slot.width
            if slot.place is Place.CONST:
                assert slot.data is not None
                c.data = address(slot.data)
                self._kept.append(slot.data)
            elif slot.place is Place.TEMP:
                c.width, c.group = slot.width, groups[number]
            elif number in positions:
                c.argument = positions[number]
        return slots

    def _step(self, step: Step) -> CStep:
        c = CStep(kind=int(step.kind), once=int(step.once), out=_view(step.out))
        for i in range(len(c.views)):
            c.views[i] = _view(step.views.get(i))
        for i, number in step.ints.items():
            c.ints[i] = number
        for i, value in step.floats.items():
            c.floats[i] = value
        for i, pointer in step.pointers.items():
            c.pointers[i] = pointer
        if step.features:
            names = [name for name, _ in CFeature._fields_]
            features = (CFeature * len(step.features))(*(CFeature(*(f[n] for n in names)) for f in step.features))
            self._kept.append(features)
            c.pointers[LookupPointer.FEATURES] = ctypes.addressof(features)
        return c


def _view(held: View | None) -> CView:
    c = CView(slot=-1)
    if held is not None:
        c.slot, c.rank, c.offset = held.slot, len(held.runs), held.offset
        for i, (size, stride) in enumerate(held.runs):
            c.size[i], c.stride[i] = size, stride
    return c


def _block(steps: Sequence[Step], slots: Sequence[Slot], placed: Any) -> int:
    """The number of rows in a block, which goes through all steps at once.

    The scratch of a block fits into a core's cache, unless the weights, which every block reads once, would then be the larger part of
    the memory traffic: scratch beyond the cache is written and read again.
    """
    groups: dict[int, int] = {}
    for slot, c in zip(slots, placed, strict=True):
        if slot.place is Place.TEMP and not slot.once:
            groups[c.group] = max(groups.get(c.group, 0), slot.width * slot.dtype.itemsize)
    scratch = max(sum(groups.values()), 1)
    weights = sum(_weight_bytes(step) for step in steps if not step.once)
    balanced = min(weights // (2 * scratch), _MOST_BLOCK_BYTES // scratch)
    return max(1, min(_MOST_ROWS, max(_BLOCK_BYTES // scratch, balanced)))


def _weight_bytes(step: Step) -> int:
    """Bytes of the weight of a product; 0 for other steps."""
    names = _PRODUCTS.get(step.kind)
    if names is None:
        return 0
    outputs, inputs, format_ = (step.ints[name] for name in names)
    return outputs * inputs * _WEIGHT_BYTES[WeightFormat(format_)]


def _groups(builder: PlanBuilder) -> dict[int, int]:
    """Groups of temporaries that share memory, since they are never alive together: slot -> group."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    steps = builder.steps
    for number, step in enumerate(steps):
        touched = [step.out.slot, *(v.slot for v in step.views.values())]
        touched += [f[name] for f in step.features for name in ("ids", "offsets", "weights") if f[name] >= 0]
        for slot in touched:
            first.setdefault(slot, number)
            # Steps for one row run before all others. Their results live to the end if other steps read them.
            kept = builder.slots[slot].once and not step.once
            last[slot] = len(steps) if kept else max(number, last.get(slot, 0))
    groups: dict[int, int] = {}
    free: dict[bool, deque[int]] = {True: deque(), False: deque()}
    busy: list[tuple[int, int, int, bool]] = []  # last use, when it was taken, group, whether it has one row
    count = 0
    for turn, slot in enumerate(sorted(first, key=lambda s: (first[s], s))):
        held = builder.slots[slot]
        if held.place is not Place.TEMP:
            continue
        ended = []
        while busy and busy[0][0] < first[slot]:
            ended.append(heapq.heappop(busy)[1:])
        for _, group, once in sorted(ended):
            free[once].append(group)
        if free[held.once]:
            groups[slot] = free[held.once].popleft()
        else:
            groups[slot] = count
            count += 1
        heapq.heappush(busy, (last[slot], turn, groups[slot], held.once))
    for slot, held in enumerate(builder.slots):
        if held.place is Place.TEMP and slot not in groups:
            held.width = 0
            groups[slot] = count
    return groups
