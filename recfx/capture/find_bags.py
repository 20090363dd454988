"""Finds the inputs that hold bags by watching one run of the user's own model.

Capture must know the dynamic sizes before a graph exists. The model runs once on the example, operator by operator, and every tensor is
traced back to the inputs from which it was computed. An input holds the bounds of bags if an operator reads values computed from it as
offsets, lengths or repeats, together with values computed from the ids, and if its values fit the number of ids. The model does not run if
no input has values that can be bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from recfx.capture.crosscheck import run_model
from recfx.capture.inputs import Call
from recfx.errors import CaptureError
from recfx.ir.bags import IDS_BEHIND_BAGS, Bags, Form, Stream, distinct_counts
from recfx.ir.jagged import is_jagged
from recfx.ir.shapes import positions

#: Argument names of operators -> form of their values, which bound runs of the rows of another argument.
_BOUNDS = {
    "offsets": Form.SPLITS,
    "x_offsets": Form.SPLITS,
    "row_splits": Form.SPLITS,
    "lengths": Form.LENGTHS,
    "repeats": Form.LENGTHS,
}
#: Operators that turn bounds into bounds of another form.
_DERIVING = ("cumsum", "repeat_interleave", "searchsorted", "bucketize")
_INTEGERS = (torch.int64, torch.int32)


@dataclasses.dataclass(frozen=True)
class _Trace:
    """The origin of a tensor: a leaf, or row `row` of a leaf; `bounds` says that a deriving operator (cumsum, ...) was applied."""

    leaf: int
    row: int | None = None
    bounds: bool = False


@dataclasses.dataclass(frozen=True)
class _Meeting:
    """An operator that read bounds and ids: their origins, and the form of the bounds, None when the operator does not determine it."""

    bounds: _Trace
    ids: _Trace
    form: Form | None


def bags_of_call(model: torch.nn.Module, call: Call) -> list[Bags]:
    """The bags that the plain tensors of a model's call form; jagged tensors describe their own bags."""
    parts = pytree.tree_leaves(call.values, is_leaf=is_jagged)
    leaves = pytree.tree_leaves(call.values)
    starts = [*positions(parts), len(leaves)]
    known = {leaf for i, part in enumerate(parts) if is_jagged(part) for leaf in range(starts[i], starts[i + 1])}
    return find_bags(partial(run_model, model, call), leaves, known)


def with_distinct_counts(call: Call, bags: Sequence[Bags]) -> Call:
    """A call in which no number of ids equals another size, so that a tracer does not treat them as the same size."""
    leaves, spec = pytree.tree_flatten(call.values)
    return call.with_values(pytree.tree_unflatten(distinct_counts(leaves, bags), spec)) if bags else call


def find_bags(run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], known: Collection[int] = ()) -> list[Bags]:
    """The bags among flat inputs.

    Args:
        run: Runs the user's model on flat inputs.
        leaves: The example.
        known: Leaves whose bags are already known.

    Raises:
        CaptureError: The example has ids behind its last bag.
    """
    taken = set(known)
    if not any(_may_bound(leaves, position, taken) for position in range(len(leaves))):
        return []
    fresh = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    watcher = _Watcher({id(leaf): i for i, leaf in enumerate(fresh) if isinstance(leaf, torch.Tensor)})
    try:
        with torch.no_grad(), watcher:
            outputs = pytree.tree_leaves(run(fresh))
    except CaptureError:
        raise
    except Exception:  # noqa: BLE001 - the comparison with the model reports that it fails on the example
        return []
    meetings = [m for m in watcher.meetings if leaves[m.bounds.leaf].dtype in _INTEGERS]
    read = [
        leaf for leaf in sorted(watcher.read - taken) if all(leaf not in (m.bounds.leaf, m.ids.leaf) for m in meetings)
    ]
    return _groups(leaves, meetings, taken, _first_size([*(leaves[leaf] for leaf in read), *outputs]))


def _first_size(values: Sequence[Any]) -> int | None:
    """Dimension 0 of the first tensor with dimensions, which is the batch if the values contain no bags."""
    return next((int(v.shape[0]) for v in values if isinstance(v, torch.Tensor) and v.ndim), None)


def _may_bound(leaves: Sequence[Any], position: int, taken: set[int]) -> bool:
    """Whether the values of a leaf fit the size of another leaf as lengths, offsets or splits."""
    bounds = leaves[position]
    if position in taken or not isinstance(bounds, torch.Tensor) or bounds.dtype not in _INTEGERS:
        return False
    if bounds.ndim not in (1, 2) or not bounds.numel():
        return False
    rows = bounds.detach().cpu().reshape(-1, bounds.shape[-1])
    return any(
        _are_bounds(part, size)
        for i, leaf in enumerate(leaves)
        if i != position and i not in taken and isinstance(leaf, torch.Tensor) and leaf.ndim
        for size in leaf.shape[: 2 if bounds.ndim == 2 else 1]
        for part in (rows[:1], rows)
    )


def _are_bounds(bounds: torch.Tensor, ids: int) -> bool:
    """Whether the values [rows, n] are the bounds of `ids` ids, in any form."""
    return any(_are_bounds_in(bounds, ids, form) for form in Form)


def _are_bounds_in(bounds: torch.Tensor, ids: int, form: Form) -> bool:
    """Whether the values [rows, n] are the bounds of `ids` ids, in the given form."""
    if form is Form.LENGTHS:
        return bool((bounds >= 0).all()) and int(bounds.sum()) == ids
    rises = not bool(bounds[:, 0].any()) and not bool((bounds.diff(dim=1) < 0).any())
    if form is Form.SPLITS:
        return rises and bounds.shape[1] > 1 and bool((bounds[:, -1] == ids).all())
    return rises and bool((bounds[:, -1] <= ids).all())


class _Watcher(TorchDispatchMode):
    """Traces every tensor of a run back to the inputs, and records the inputs that are read and the operators that read bounds and ids.

    Args:
        inputs: `id()` of an input tensor -> its position.
    """

    def __init__(self, inputs: dict[int, int]) -> None:
        super().__init__()
        self.meetings: list[_Meeting] = []
        self.read: set[int] = set()
        self._traces: dict[int, frozenset[_Trace]] = {key: frozenset([_Trace(i)]) for key, i in inputs.items()}
        self._alive: list[Any] = []  # kept alive, so that no other tensor gets the same id() during the run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        named = list(_arguments(func, args, kwargs or {}))
        traces = {name: self._traces_of(value) for name, value in named}
        if "embedding_bag" in str(func):
            inputs = bool(traces.get("indices")) and any(not trace.bounds for trace in traces.get("offsets", ()))
            _require_no_ids_behind_bags(dict(named), inputs=inputs)
        self._note(func, dict(named), traces)
        made = frozenset(t for found in traces.values() for t in found)
        self.read |= {trace.leaf for trace in made}
        if any(word in str(func) for word in _DERIVING):
            made = frozenset(_derived(t, value) for name, value in named for t in traces[name])
        for number, tensor in enumerate(_tensors(result)):
            own = _row_traces(func, dict(named), made, number)
            if own:
                self._traces[id(tensor)] = own | self._traces.get(id(tensor), frozenset())
                self._alive.append(tensor)
        return result

    def _traces_of(self, value: Any) -> frozenset[_Trace]:
        return frozenset(t for tensor in _tensors(value) for t in self._traces.get(id(tensor), ()))

    def _note(self, func: Any, values: dict[str, Any], traces: dict[str, frozenset[_Trace]]) -> None:
        for name, found in traces.items():
            for bounds in found:
                form = _BOUNDS.get(name)
                if form is None and not bounds.bounds:
                    continue
                if form is Form.SPLITS and "embedding_bag" in str(func):
                    form = Form.SPLITS if values.get("include_last_offset") else Form.OFFSETS
                others = {t for other, held in traces.items() if other != name for t in held}
                self.meetings += [
                    _Meeting(bounds, ids, None if bounds.bounds else form)
                    for ids in others
                    if ids.leaf != bounds.leaf and not ids.bounds
                ]


def _require_no_ids_behind_bags(values: dict[str, Any], *, inputs: bool) -> None:
    """Refuses ids after the last bag of an embedding bag where torch counts them, or where they and the offsets are inputs."""
    if not values.get("include_last_offset") or not values["offsets"].numel():
        return
    counted = values.get("mode") == 1 or values.get("padding_idx", -1) not in (None, -1)
    last, count = int(values["offsets"][-1]), values["indices"].shape[0]
    if last < count and (counted or inputs):
        raise CaptureError(
            f"the example's offsets end at {last}, before the end of the {count} ids; "
            + (IDS_BEHIND_BAGS if counted else "the ids behind belong to no row"),
            hint="drop the ids after the last offset, in the example and in calls: ids[: offsets[-1]]",
        )


def _derived(trace: _Trace, value: Any) -> _Trace:
    """The trace that a deriving operator gives its result: bounds only if its argument holds integers."""
    whole = all(tensor.dtype in _INTEGERS for tensor in _tensors(value))
    return dataclasses.replace(trace, bounds=True) if whole else trace


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    names = [argument.name for argument in func._schema.arguments]
    yield from zip(names, args, strict=False)
    yield from kwargs.items()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [v for v in value if isinstance(v, torch.Tensor)] if isinstance(value, tuple | list) else []


def _row_traces(func: Any, values: dict[str, Any], made: frozenset[_Trace], number: int) -> frozenset[_Trace]:
    """The origins of result `number`, with the row if the operator reads one row of a matrix."""
    source = values.get("self")
    if not isinstance(source, torch.Tensor) or source.ndim != 2 or values.get("dim", 0) != 0:
        return made
    if func is torch.ops.aten.select.int:
        row = int(values["index"]) % source.shape[0]
    elif func is torch.ops.aten.unbind.int:
        row = number
    else:
        return made
    return frozenset(dataclasses.replace(t, row=row) if t.row is None else t for t in made)


def _groups(leaves: Sequence[Any], meetings: Sequence[_Meeting], taken: set[int], batch: int | None) -> list[Bags]:
    """The bags of all meetings whose values fit. A leaf belongs to at most one of them."""
    found: list[Bags] = []
    used = set(taken)
    for leaf in dict.fromkeys(meeting.bounds.leaf for meeting in meetings):
        own = [m for m in meetings if m.bounds.leaf == leaf and m.ids.leaf not in used]
        if leaf in used or not own or leaves[leaf].ndim not in (1, 2):
            continue
        fitting = [bags for form in _forms(own) if (bags := _group(leaves, leaf, form, own)) is not None]
        sized = [_with_runs(leaves, bags, batch) for bags in fitting]
        bags = min((b for b in sized if b is not None), key=lambda bags: bags.runs, default=None)
        if bags is not None:
            found.append(bags)
            used |= {leaf, *bags.members}
    return found


def _forms(meetings: Sequence[_Meeting]) -> list[Form]:
    """The possible forms of the bounds: first the forms that operators determine, then lengths, splits and offsets."""
    told = [meeting.form for meeting in meetings if meeting.form is not None]
    return list(dict.fromkeys([*told, Form.LENGTHS, Form.SPLITS, Form.OFFSETS]))


def _group(leaves: Sequence[Any], leaf: int, form: Form, meetings: Sequence[_Meeting]) -> Bags | None:
    """The bags of a leaf of bounds in the given form; None when its values do not fit."""
    bounds = leaves[leaf]
    if bounds.ndim == 1:
        stream = _stream(leaves, bounds.unsqueeze(0), form, meetings)
        return Bags(leaf, form, 1, (stream,)) if stream.leaves else None
    whole = _stream(leaves, bounds.reshape(1, -1), form, [m for m in meetings if m.ids.row is None])
    if whole.leaves and form is Form.LENGTHS:
        return Bags(leaf, form, bounds.shape[0], (whole,))
    streams = [
        _stream(leaves, bounds[t : t + 1], form, [m for m in meetings if m.bounds.row == t])
        for t in range(bounds.shape[0])
    ]
    if not all(stream.leaves for stream in streams):
        return None
    return Bags(leaf, form, bounds.shape[0], tuple(streams))


def _stream(leaves: Sequence[Any], bounds: torch.Tensor, form: Form, meetings: Sequence[_Meeting]) -> Stream:
    """The leaves that operators read together with the bounds [1, n] and whose sizes, all equal, fit the bounds."""
    held: dict[int, int | None] = {}
    size: int | None = None
    values = bounds.detach().cpu()
    for meeting in meetings:
        ids = leaves[meeting.ids.leaf]
        row = meeting.ids.row
        if not isinstance(ids, torch.Tensor) or not ids.ndim or (row is not None and ids.ndim != 2):
            continue
        count = int(ids.shape[0 if row is None else 1])
        if size in (None, count) and _are_bounds_in(values, count, form):
            size = count
            held.setdefault(meeting.ids.leaf, row)
    rows = set(held.values())
    return Stream(tuple(held), rows.pop()) if len(rows) == 1 else Stream(())


def _with_runs(leaves: Sequence[Any], bags: Bags, batch: int | None) -> Bags | None:
    """The bags as runs of one bag for each row of the batch; None when the bags cannot be divided in this way."""
    count = bags.batch(leaves) * bags.runs
    if batch is None or count == batch * bags.runs:
        return bags
    bounds = leaves[bags.bounds]
    if bounds.ndim == 2 and bags.form is Form.LENGTHS and len(bags.streams) == 1 and bounds.shape[0] == batch:
        return dataclasses.replace(bags, runs=bounds.shape[1], by_row=True)
    if bounds.ndim > 1 or not batch or count % batch:
        return None
    return dataclasses.replace(bags, runs=count // batch)
