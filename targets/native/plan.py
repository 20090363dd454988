"""A finished plan: its C structs, its memory, and the call."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError, TargetError
from recfx.ir.program import where
from recfx.targets.native.abi import DTYPES, CError, CFeature, CSlot, CStep, CView, Place
from recfx.targets.native.builder import PlanBuilder, Slot, Step, View
from recfx.targets.native.library import Library

#: Scratch of one block of rows, so that it stays in a core's own cache.
_BLOCK_BYTES = 768 << 10
_MOST_ROWS = 256
_FEW_POINTERS = 8


class Plan:
    """A plan as the library holds it, and everything it points to.

    Args:
        library: The kernel library.
        level: The instruction-set level.
        builder: The slots and steps.
        arguments: Slots of inputs and outputs, in the order of the caller's pointers.
    """

    def __init__(self, library: Library, level: str, builder: PlanBuilder, arguments: Sequence[int]) -> None:
        self._kept: list[Any] = [builder.packer.kept, builder.packer]
        self.steps = builder.steps
        slots = self._slots(builder, arguments)
        steps = (CStep * len(builder.steps))(*(self._step(step) for step in builder.steps))
        self._kept += [slots, steps]
        self.handle: int = library.calls["recfx_plan_new"](
            level.encode(), slots, len(slots), steps, len(steps), _block(builder.slots, slots), len(arguments)
        )
        if not self.handle:
            raise TargetError("there is not enough memory for a plan")
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
                c.data = slot.data.data_ptr()
                self._kept.append(slot.data)
            elif slot.place is Place.TEMP:
                c.argument, c.data = slot.width, groups[number]
            elif number in positions:
                c.argument = positions[number]
        return slots

    def _step(self, step: Step) -> CStep:
        c = CStep(kind=int(step.kind), once=int(step.once), out=_view(step.out))
        for i in range(len(c.views)):
            c.views[i] = _view(step.views.get(i))
        for i, number in enumerate(step.ints):
            c.ints[i] = number
        for i, value in enumerate(step.floats):
            c.floats[i] = value
        for i, address in step.pointers.items():
            c.pointers[i] = address
        if step.features:
            names = [name for name, _ in CFeature._fields_]
            features = (CFeature * len(step.features))(*(CFeature(*(f[n] for n in names)) for f in step.features))
            self._kept.append(features)
            c.pointers[0] = ctypes.addressof(features)
        return c


def _view(held: View | None) -> CView:
    c = CView(slot=-1)
    if held is not None:
        c.slot, c.rank, c.offset = held.slot, len(held.runs), held.offset
        for i, (size, stride) in enumerate(held.runs):
            c.size[i], c.stride[i] = size, stride
    return c


def _block(slots: Sequence[Slot], placed: Any) -> int:
    """Rows taken through all steps at once: their scratch stays in cache, and weights are not read anew for too few of them."""
    groups: dict[int, int] = {}
    for slot, c in zip(slots, placed, strict=True):
        if slot.place is Place.TEMP and not slot.once:
            groups[int(c.data or 0)] = max(groups.get(int(c.data or 0), 0), slot.width * slot.dtype.itemsize)
    return max(1, min(_MOST_ROWS, _BLOCK_BYTES // max(sum(groups.values()), 1)))


def _groups(builder: PlanBuilder) -> dict[int, int]:
    """Temporaries that are never alive together share memory: slot -> group."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(builder.steps):
        touched = [step.out.slot, *(v.slot for v in step.views.values())]
        touched += [f[name] for f in step.features for name in ("ids", "offsets", "weights") if f[name] >= 0]
        for slot in touched:
            first.setdefault(slot, number)
            # Steps for one row run before all others: what the others read of theirs lives to the end.
            kept = builder.slots[slot].once and not step.once
            last[slot] = len(builder.steps) if kept else max(number, last.get(slot, 0))
    groups: dict[int, int] = {}
    free: list[tuple[int, bool]] = []
    busy: list[tuple[int, int, bool]] = []
    count = 0
    for slot in sorted(first, key=lambda s: (first[s], s)):
        held = builder.slots[slot]
        if held.place is not Place.TEMP:
            continue
        for entry in [b for b in busy if b[0] < first[slot]]:
            busy.remove(entry)
            free.append(entry[1:])
        match = next((f for f in free if f[1] is held.once), None)
        if match:
            free.remove(match)
        else:
            match = (count, held.once)
            count += 1
        groups[slot] = match[0]
        busy.append((last[slot], match[0], held.once))
    for slot, held in enumerate(builder.slots):
        if held.place is Place.TEMP and slot not in groups:
            held.width = 0
            groups[slot] = count
    return groups


def plan_call(
    plan: Plan, library: Library, builder: PlanBuilder, arguments: Sequence[int], outputs: int
) -> Callable[..., Any]:
    """The function that runs a plan: input tensors -> output tensor, or a tuple of them.

    Args:
        plan: The plan.
        library: The kernel library.
        builder: What it was built from.
        arguments: Slots of the inputs and then the outputs.
        outputs: How many of the arguments are outputs.
    """
    slots = [builder.slots[a] for a in arguments]
    count = len(slots) - outputs
    inputs, names = slots[:count], [f"x{i}" for i in range(count)]
    lines = [f"def call({', '.join(names)}):"]
    lines += [f"    if not {x}.is_contiguous(): {x} = {x}.contiguous()" for x in names]
    rows = next(
        (f"{x}.numel() // {s.width}" for x, s in zip(names, inputs, strict=True) if not s.jagged and not s.once), None
    )
    shaped = next(
        (
            f"{x}.shape[0]"
            for x, s in zip(names, inputs, strict=True)
            if not s.jagged and not s.once and s.node is not None and _lead(builder, s.node) == 1
        ),
        None,
    )
    jagged = [i for i, s in enumerate(inputs) if s.jagged]
    lines.append(f"    batch = {shaped or rows or _jagged_batch(builder, arguments) or 1}")
    for i, slot in enumerate(slots[count:]):
        lines.append(
            f"    y{i} = _empty({_output_shape(builder, slot)}, dtype=_dtype{i})"
            if slot.dtype is not torch.float32
            else f"    y{i} = _empty({_output_shape(builder, slot)})"
        )
    pointers = [f"{n}.data_ptr()" for n in [*names, *(f"y{i}" for i in range(outputs))]]
    if len(pointers) <= _FEW_POINTERS and not jagged:
        pointers += ["0"] * (_FEW_POINTERS - len(pointers))
        lines.append(f"    code = _run8(_handle, batch, _threads(), {', '.join(pointers)})")
    else:
        counts = [f"{x}.numel()" for x in names] + ["0"] * outputs
        lines.append(
            f"    code = _run(_handle, batch, _threads(), _array({', '.join(pointers)}), _array({', '.join(counts)}))"
        )
    lines.append("    if code: _fail(code)")
    results = [f"y{i}" for i in range(outputs)]
    lines.append(f"    return {results[0] if outputs == 1 else '(' + ', '.join(results) + ')'}")
    namespace: dict[str, Any] = {
        "_empty": torch.empty,
        "_run8": library.calls["recfx_run8"],
        "_run": library.calls["recfx_run"],
        "_array": ctypes.c_int64 * len(pointers),
        "_handle": plan.handle,
        "_threads": torch.get_num_threads,
        "_fail": _Failure(plan, library),
        **{f"_dtype{i}": slot.dtype for i, slot in enumerate(slots[count:])},
    }
    exec(compile("\n".join(lines) + "\n", "<recfx native call>", "exec"), namespace)
    call: Callable[..., Any] = namespace["call"]
    return call


def _lead(builder: PlanBuilder, node: fx.Node) -> int:
    return builder.shape(node)[0].size


def _jagged_batch(builder: PlanBuilder, arguments: Sequence[int]) -> str | None:
    """The batch by the number of offsets of a lookup, for plans that have nothing else to tell it."""
    for step in builder.steps:
        for f in step.features:
            if f["offsets"] >= 0:
                x = f"x{list(arguments).index(f['offsets'])}"
                return f"({x}.numel() - {f['last']}) // {f['segments']}"
    return None


def _output_shape(builder: PlanBuilder, slot: Slot) -> str:
    assert slot.node is not None
    sizes = []
    for d in builder.shape(slot.node):
        sizes.append((f"batch * {d.size}" if d.size != 1 else "batch") if d.batch else str(d.size))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


class _Failure:
    """Turns an error code into the exception that says what is wrong with which input."""

    def __init__(self, plan: Plan, library: Library) -> None:
        self._plan = plan
        self._last_error = library.calls["recfx_last_error"]

    def __call__(self, code: int) -> None:
        error = CError()
        self._last_error(ctypes.byref(error))
        if code == 3:
            raise TargetError("there is not enough memory for this batch", hint="call with fewer rows")
        step = self._plan.steps[error.step]
        node: fx.Node = step.reads if step.reads is not None else step.features[error.feature]["node"]
        if code == 1:
            what = f"id {error.value} in row {error.row} is outside its table of {error.limit} rows"
            hint = f"ids of this feature must be in [0, {error.limit})"
        else:
            what = f"the offsets of row {error.row} point to {error.value}, outside the {error.limit} ids"
            hint = "offsets must not fall and must stay within the ids"
        raise InputError(f"{node.name}: {what}", where=where(node), hint=hint)
