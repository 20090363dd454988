"""Checks that every element that the steps of a plan read or write lies in its slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from recfx.errors import TargetError
from recfx.kernels.codes import Kind, Place
from recfx.kernels.slots import (
    AttentionView,
    BmmView,
    CinInt,
    CinView,
    CodeDotView,
    ConvolveInt,
    DotInt,
    DotView,
    FmInt,
    FmView,
    GemmInt,
    GemmView,
    IntegerSumInt,
    KeyScoresInt,
    KeyScoresLayer,
    KeyScoresView,
    RecurrentInt,
    RecurrentView,
    RowNumbersInt,
    TakeInt,
    TakeView,
    TurnKeysView,
)
from recfx.ops import lookup
from recfx.targets.native.steps import Slot, Step, View

#: Elements of a slot: their role, the slot, the first element, and (count, stride) of each loop over them.
Reach = tuple[str, int, int, tuple[tuple[int, int], ...]]

#: The library stores the row width of a temporary as a 32-bit number.
_MOST_WIDTH = 2**31 - 1


def check_bounds(slots: Sequence[Slot], steps: Sequence[Step]) -> None:
    """Checks every step of a plan for any batch: a slot holds `width` elements for each batch row, and a step accesses only those.

    The kernels check the accesses that depend on data, such as those by ids and offsets.

    Args:
        slots: The plan's slots.
        steps: Its steps.

    Raises:
        TargetError: A step would read or write outside a slot.
    """
    for number, slot in enumerate(slots):
        if slot.place is Place.TEMP and slot.width > _MOST_WIDTH:
            raise TargetError(
                f"slot {number} has {slot.width} elements a row, more than {_MOST_WIDTH}",
                hint="make the layer narrower, or pass target='eager'",
            )
    for number, step in enumerate(steps):
        place = f"step {number} ({step.kind.name.lower()})"
        if slots[step.out.slot].once != step.once:
            raise _violation(place, f"writes slot {step.out.slot}, which has {_rows(slots[step.out.slot])}")
        for name, slot_number, offset, loops in _REACHES[step.kind](step):
            slot = slots[slot_number]
            if step.once and not slot.once and not slot.jagged:
                raise _violation(place, f"runs once and reads slot {slot_number}, which has {_rows(slot)}, as {name}")
            if any(count == 0 for count, _ in loops):
                continue
            first = offset + sum(min((count - 1) * stride, 0) for count, stride in loops)
            last = offset + sum(max((count - 1) * stride, 0) for count, stride in loops)
            if first < 0 or last >= slot.width or any(count < 0 for count, _ in loops):
                raise _violation(
                    place,
                    f"reaches elements {first} to {last} of slot {slot_number}, which holds {slot.width}, as {name}",
                )


def _rows(slot: Slot) -> str:
    return "one row for the whole batch" if slot.once else "a row for each row of the batch"


def _violation(place: str, what: str) -> TargetError:
    return TargetError(
        f"{place} {what}", hint="this is a fault of recfx's native backend: please report it, and pass target='eager'"
    )


def _reach(name: str, view: View, *loops: tuple[int, int]) -> Reach:
    return name, view.slot, view.offset, loops


def _sizes(view: View) -> list[int]:
    return [size for size, _ in view.runs]


def _strides(view: View) -> list[int]:
    return [stride for _, stride in view.runs]


def _by_output(step: Step) -> Iterator[Reach]:
    """Views and output are walked together, by the output's sizes."""
    sizes = _sizes(step.out)
    for number, view in step.views.items():
        yield _reach(f"input {int(number)}", view, *zip(sizes, _strides(view), strict=True))
    yield _reach("output", step.out, *step.out.runs)


def _take(step: Step) -> Iterator[Reach]:
    by, limit = step.ints[TakeInt.STRIDE], step.ints[TakeInt.LIMIT]
    source, index = step.views[TakeView.SOURCE], step.views[TakeView.INDEX]
    sizes = _sizes(step.out)
    yield _reach("source", source, *zip(sizes, _strides(source), strict=True), (limit, by))
    yield _reach("index", index, *zip(sizes[:3], _strides(index)[:3], strict=True))
    yield _reach("output", step.out, *step.out.runs)


def _gemm(step: Step) -> Iterator[Reach]:
    n, k = step.ints[GemmInt.OUTPUTS], step.ints[GemmInt.INPUTS]
    x = step.views[GemmView.INPUT]
    rows = x.runs[0][0]
    yield _reach("input", x, x.runs[0], (k, 1))
    for number, name in ((GemmView.FACTOR, "factor"), (GemmView.SUMMAND, "summand")):
        if number in step.views:
            yield _reach(name, step.views[number], (rows, step.views[number].runs[0][1]), (n, 1))
    yield _reach("output", step.out, (rows, step.out.runs[0][1]), (n, 1))


def _lookup(step: Step) -> Iterator[Reach]:
    rows, row = step.out.runs[0]
    for feature in step.features:
        columns = feature["dim"] * (feature["length"] if feature["pooling"] == lookup.NONE else 1)
        yield "output", step.out.slot, step.out.offset + feature["output"], ((rows, row), (columns, 1))
        if feature["offsets"] >= 0:
            continue
        for name in ("ids", "weights"):
            if feature[name] >= 0:
                loops = ((rows, feature[f"{name}_row"]), (feature["length"], feature[f"{name}_stride"]))
                yield name, feature[name], feature[f"{name}_offset"], loops


def _dot(step: Step) -> Iterator[Reach]:
    x = step.views[DotView.VECTORS]
    features = x.runs[0][0]
    columns, self_interaction = step.ints[DotInt.PREFIX_COLUMNS], step.ints[DotInt.SELF_PAIRS]
    yield _reach("vectors", x, x.runs[0], (x.runs[1][0], 1))
    if columns:
        yield _reach("prefix", step.views[DotView.PREFIX], (columns, 1))
    pairs = features * (features + 1 if self_interaction else features - 1) // 2
    yield _reach("output", step.out, (columns + pairs, 1))


def _fm(step: Step) -> Iterator[Reach]:
    x = step.views[FmView.VECTORS]
    yield _reach("vectors", x, x.runs[0], (x.runs[1][0], 1))
    yield _reach("output", step.out, (1 if step.ints[FmInt.TOTAL] else x.runs[1][0], 1))


def _cin(step: Step) -> Iterator[Reach]:
    """The kernel reads as many maps and vectors as there are, and writes a row of outputs for each column."""
    maps, vectors = step.views[CinView.MAPS], step.views[CinView.VECTORS]
    columns = maps.runs[1][0]
    yield _reach("maps", maps, *maps.runs)
    yield _reach("vectors", vectors, vectors.runs[0], (columns, vectors.runs[1][1]))
    yield _reach("output", step.out, (columns, step.out.runs[0][1]), (step.ints[CinInt.OUTPUTS], 1))


def _recurrent(step: Step) -> Iterator[Reach]:
    sequences, steps, hidden = step.out.runs[0][0], step.ints[RecurrentInt.STEPS], step.ints[RecurrentInt.HIDDEN]
    given = step.views[RecurrentView.GIVEN]
    yield _reach("given", given, (sequences, _strides(given)[0]), (steps, _strides(given)[1]), (_sizes(given)[2], 1))
    for number, name in ((RecurrentView.STATE, "state"), (RecurrentView.MEMORY, "memory")):
        if number in step.views:
            yield _reach(name, step.views[number], (sequences, _strides(step.views[number])[0]), (hidden, 1))
    if RecurrentView.ATTENTION in step.views:
        by = _strides(step.views[RecurrentView.ATTENTION])
        yield _reach("attention", step.views[RecurrentView.ATTENTION], (sequences, by[0]), (steps, by[1]))
    if RecurrentView.LENGTHS in step.views:
        lengths = step.views[RecurrentView.LENGTHS]
        yield _reach("lengths", lengths, (sequences, _strides(lengths)[0]))
    places = steps + step.ints[RecurrentInt.ENDS]
    yield _reach("output", step.out, (sequences, _strides(step.out)[0]), (places, _strides(step.out)[1]), (hidden, 1))


def _reduce(step: Step) -> Iterator[Reach]:
    (x,) = step.views.values()
    outer, _, inner = _sizes(x)
    yield _reach("input", x, *x.runs)
    yield _reach("output", step.out, (outer, step.out.runs[0][1]), (inner, step.out.runs[-1][1]))


def _running(step: Step) -> Iterator[Reach]:
    (x,) = step.views.values()
    yield _reach("input", x, *x.runs)
    yield _reach("output", step.out, *zip(_sizes(x), _strides(step.out), strict=True))


def _integer_sum(step: Step) -> Iterator[Reach]:
    return _running(step) if step.ints[IntegerSumInt.RUNNING] else _reduce(step)


def _row_wise(step: Step) -> Iterator[Reach]:
    (rows, _), (n, _) = next(iter(step.views.values())).runs
    for number, view in step.views.items():
        yield _reach(f"input {int(number)}", view, (rows, view.runs[0][1]), (n, 1))
    yield _reach("output", step.out, (rows, step.out.runs[0][1]), (n, 1))


def _bmm(step: Step) -> Iterator[Reach]:
    a, b, out = step.views[BmmView.LEFT], step.views[BmmView.RIGHT], step.out
    outer, (m, k), n = out.runs[0][0], _sizes(a)[1:], _sizes(b)[2]
    yield _reach("left", a, (outer, _strides(a)[0]), *a.runs[1:])
    yield _reach("right", b, (outer, _strides(b)[0]), (k, _strides(b)[1]), (n, _strides(b)[2]))
    yield _reach("output", out, out.runs[0], (m, _strides(out)[1]), (n, 1))


def _attention(step: Step) -> Iterator[Reach]:
    q, k, v = (step.views[name] for name in (AttentionView.QUERY, AttentionView.KEY, AttentionView.VALUE))
    out = step.out
    heads, (m, d), n, e = out.runs[0][0], _sizes(q)[1:], _sizes(k)[1], _sizes(v)[2]
    for name, view, rows, columns in (("query", q, m, d), ("key", k, n, d), ("value", v, n, e)):
        outer, row, column = _strides(view)
        yield _reach(name, view, (heads, outer), (rows, row), (columns, column))
    if AttentionView.MASK in step.views:
        mask = step.views[AttentionView.MASK]
        outer, row, column = _strides(mask)
        yield _reach("mask", mask, (heads, outer), (m, row), (n, column))
    yield _reach("output", out, out.runs[0], (m, _strides(out)[1]), (e, 1))


def _code_dot(step: Step) -> Iterator[Reach]:
    query = step.views[CodeDotView.QUERY]
    yield _reach("query", query, (query.runs[0][0], 1))
    count = step.out.runs[0][0]
    if CodeDotView.IDS in step.views:
        yield _reach("ids", step.views[CodeDotView.IDS], (count, 1))
    yield _reach("output", step.out, (count, 1))


def _turn_keys(step: Step) -> Iterator[Reach]:
    keys = step.views[TurnKeysView.KEYS]
    yield _reach("keys", keys, keys.runs[0], (keys.runs[1][0], 1))
    yield _reach("output", step.out, (math.prod(_sizes(keys)), 1))


def _key_scores(step: Step) -> Iterator[Reach]:
    keys, columns = step.ints[KeyScoresInt.KEYS], step.ints[KeyScoresInt.COLUMNS]
    outputs = step.ints[KeyScoresInt.LAYERS + KeyScoresLayer.OUTPUTS]
    yield _reach("keys", step.views[KeyScoresView.KEYS], (keys * columns, 1))
    yield _reach("query", step.views[KeyScoresView.QUERY], (columns, 1))
    yield _reach("row", step.views[KeyScoresView.FIRST_BIAS], (outputs, 1))
    yield _reach("output", step.out, (keys, 1))


def _order(step: Step) -> Iterator[Reach]:
    (x,) = step.views.values()
    outer, _, inner = _sizes(x)
    yield _reach("input", x, *x.runs)
    yield _reach("output", step.out, *zip((outer, _sizes(step.out)[1], inner), _strides(step.out), strict=True))


def _convolve(step: Step) -> Iterator[Reach]:
    (x,) = step.views.values()
    sizes = _sizes(step.out)
    window = (
        (ConvolveInt.CHANNELS, ConvolveInt.CHANNEL_STRIDE),
        (ConvolveInt.ROWS, ConvolveInt.ROW_STRIDE),
        (ConvolveInt.COLUMNS, ConvolveInt.COLUMN_STRIDE),
    )
    inside = [(step.ints[size], step.ints[stride]) for size, stride in window]
    yield _reach("input", x, (sizes[1], _strides(x)[0]), (sizes[2], 1), *inside)
    yield _reach("output", step.out, *step.out.runs[:2], (sizes[2], 1))


def _row_numbers(step: Step) -> Iterator[Reach]:
    yield _reach("output", step.out, (step.ints[RowNumbersInt.COUNT], 1))


_REACHES: dict[Kind, Callable[[Step], Iterator[Reach]]] = {
    Kind.GEMM: _gemm,
    Kind.LOOKUP: _lookup,
    Kind.DOT: _dot,
    Kind.FM: _fm,
    Kind.CIN: _cin,
    Kind.RECURRENT: _recurrent,
    Kind.POINTWISE: _by_output,
    Kind.REDUCE: _reduce,
    Kind.SOFTMAX: _row_wise,
    Kind.NORM: _row_wise,
    Kind.BMM: _bmm,
    Kind.ATTENTION: _attention,
    Kind.TAKE: _take,
    Kind.INTEGER: _by_output,
    Kind.INTEGER_SUM: _integer_sum,
    Kind.CODE_DOT: _code_dot,
    Kind.TURN_KEYS: _turn_keys,
    Kind.KEY_SCORES: _key_scores,
    Kind.FOLD: _reduce,
    Kind.SPREAD: _reduce,
    Kind.RUNNING: _running,
    Kind.ROW_NUMBERS: _row_numbers,
    Kind.ORDER: _order,
    Kind.CONVOLVE: _convolve,
}
