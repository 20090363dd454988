"""The physical limit of a model's time: the bytes that it must read, divided by the read bandwidth, and its operations,
divided by the peak rate."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.varying import Varying
from recfx.cost.machine import Machine

_aten: Any = torch.ops.aten
_LOOKUPS = {_aten.embedding: 1, _aten._embedding_bag: 1, _aten._embedding_bag_forward_only: 1}
#: Bytes of a number.
PRECISIONS = {"fp32": 4, "bf16": 2, "int8": 1}
_ROW_PICKS = {_aten.index_select, _aten.index}


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one call of a model.

    Attributes:
        flops: Floating-point operations of its matrix products, as torch's flop counter knows them; a multiply-add is two.
        needed_flops: The same in request mode, where all rows of some inputs are equal, and operations that depend only
            on these inputs count once.
        weight_bytes: Bytes of parameters and buffers that are read completely.
        lookups: Rows gathered from tables.
        lookup_bytes: Their bytes.
        distinct: Bytes of a row -> number of different gathered rows, which memory must deliver.
        table_bytes: Size of the tables with lookups.
    """

    flops: int
    needed_flops: int
    weight_bytes: int
    lookups: int
    lookup_bytes: int
    distinct: Mapping[int, int]
    table_bytes: int

    @property
    def distinct_bytes(self) -> int:
        """Bytes of the different gathered rows."""
        return sum(row * count for row, count in self.distinct.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "distinct": {str(row): count for row, count in self.distinct.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Work:
        """Restores the result of `to_json`."""
        return cls(**{**values, "distinct": {int(row): count for row, count in values["distinct"].items()}})


@dataclasses.dataclass(frozen=True)
class Limit:
    """The least time of a call, in seconds, on a machine at a precision.

    Attributes:
        weights: Reading the weights once.
        lookups: Reading the rows.
        arithmetic: The operations at the peak rate.
    """

    weights: float
    lookups: float
    arithmetic: float

    @property
    def seconds(self) -> float:
        """Reading and arithmetic may overlap; reading weights and reading rows share the memory."""
        return max(self.weights + self.lookups, self.arithmetic)


def limit_of(
    work: Work, machine: Machine, peaks: Mapping[str, float] | None = None, *, precision: str = "fp32", sets: int = 1
) -> Limit:
    """Computes the limit of a model on a machine.

    Args:
        work: The work of one call.
        machine: The machine's figures, measured with the same number of threads.
        peaks: Operations per second by precision; the greater of this figure and the machine's own counts.
        precision: The precision of weights, tables and arithmetic; a key of `PRECISIONS`.
        sets: Number of different inputs in turn: rows that they read repeatedly come from the caches.
    """
    share = PRECISIONS[precision] / PRECISIONS["fp32"]
    weight_bytes = work.weight_bytes * share
    touched = min(work.table_bytes, sets * work.distinct_bytes) * share
    rows = sum(count / machine.gather_rate(touched, row * share) for row, count in work.distinct.items())
    peak = max((peaks or {}).get(precision, 0.0), machine.matmul)
    return Limit(weight_bytes / machine.stream_rate(weight_bytes), rows, work.needed_flops / peak)


def count_work(model: nn.Module, inputs: Sequence[Tensor], *, request: Collection[int] = (), split: int = 0) -> Work:
    """Runs the model once and counts its work.

    Args:
        model: A model in eval mode.
        inputs: Positional inputs.
        request: Positions of the inputs whose rows are all equal.
        split: Further operations saved by splitting operators into the request's share and the candidates'.
    """
    reads = _Reads(model)
    flops = FlopCounterMode(display=False)
    sides: dict[bool, list[Tensor]] = {True: [], False: []}
    for position, value in enumerate(inputs):
        sides[position in request].append(value)
    varying = Varying(sides[True], sides[False])
    with torch.no_grad(), flops, reads, varying:
        model(*inputs)
    total, rows = flops.get_total_flops(), max(len(inputs[0]) if inputs else 1, 1)
    distinct: defaultdict[int, int] = defaultdict(int)
    for (_, row_bytes), ids in reads.ids.items():
        distinct[row_bytes] += len(np.unique(torch.cat(ids).numpy()))
    return Work(
        flops=total,
        needed_flops=total - varying.equal_flops * (rows - 1) // rows - split,
        weight_bytes=sum(min(sum(parts.values()), reads.state[key]) for key, parts in reads.whole.items()),
        lookups=reads.lookups,
        lookup_bytes=reads.lookup_bytes,
        distinct=dict(distinct),
        table_bytes=sum(reads.tables.values()),
    )


class _Reads(TorchDispatchMode):
    """Records, operator by operator, the tensors of the state that are read completely and the rows that are
    gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tensors = [*model.parameters(), *model.buffers()]
        self.state = {_storage(t): t.untyped_storage().nbytes() for t in tensors if t.numel()}
        self.whole: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        self.tables: dict[int, int] = {}
        self.ids: defaultdict[tuple[int, int], list[Tensor]] = defaultdict(list)
        self.alive: list[Tensor] = []  # computed tables, kept alive so that no two of them have the same address
        self.lookups = 0
        self.lookup_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = args
        if func.overloadpacket in _LOOKUPS:
            self._gather(args[0], args[1])
            read = args[1:]
        elif func.overloadpacket in _ROW_PICKS and _storage(args[0]) in self.state:
            picked = _picked_rows(func.overloadpacket, args)
            if picked is not None:
                self._gather(args[0], picked)
                read = args[1:]
        if not func.is_view:
            for value in pytree.tree_leaves((read, kwargs)):
                if isinstance(value, Tensor) and _storage(value) in self.state:
                    part = (int(value.storage_offset()), value.numel())
                    self.whole[_storage(value)][part] = value.numel() * value.element_size()
        return func(*args, **(kwargs or {}))

    def _gather(self, table: Tensor, ids: Tensor) -> None:
        row_bytes = table[0].numel() * table.element_size()
        self.tables[_storage(table)] = table.untyped_storage().nbytes()
        self.alive.append(table)
        self.ids[_storage(table), row_bytes].append(ids.reshape(-1).clone())
        self.lookups += ids.numel()
        self.lookup_bytes += ids.numel() * row_bytes


def _picked_rows(packet: Any, args: tuple[Any, ...]) -> Tensor | None:
    """The row numbers if an indexing operator selects rows by number, otherwise None."""
    if packet is _aten.index_select:
        return args[2] if args[1] == 0 else None
    (first, *rest) = args[1]
    if first is None or first.dtype == torch.bool or any(index is not None for index in rest):
        return None
    return first  # type: ignore[no-any-return]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
