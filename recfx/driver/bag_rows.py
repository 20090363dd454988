"""The proof that each row of a lookup of bags depends on that row's bag only, so that a call can be divided by bags.

The ids of a lookup must be a leaf of bags, unchanged, and its offsets must be those of the same bags. Both are computed from the leaves
by integer operators, which are evaluated on drawn bags of several batch sizes and compared with the leaves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.batch_axis import Rows
from recfx.analysis.origins import OriginOf
from recfx.ir.access import argument_of, items_of
from recfx.ir.bags import Bags, Form
from recfx.ir.jagged_bags import all_bags
from recfx.ir.op_sets import EMBEDDING_BAGS, SIZED_RESHAPES
from recfx.ir.program import Origin, Program, get_state
from recfx.ir.region import batch_symbol
from recfx.ops.lookup import decode, grouped_lookup

_BATCHES = (1, 2, 5)
_MOST_IDS = 4


def bag_leaves(program: Program) -> set[int]:
    """The positions of the leaves that hold bags."""
    return {leaf for bags in all_bags(program) for leaf in (bags.bounds, *bags.members)}


class BagRows:
    """Finds the lookups of a program whose rows depend on their own bag only.

    Args:
        program: The program, in which grouped lookups are not decomposed.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._places = {node: i for i, node in enumerate(program.placeholders())}
        self._bags = all_bags(program)
        plain = [bags for bags in self._bags if all(stream.row is None for stream in bags.streams)]
        self._drawn = [(bags, [_draw(bags, batch, program) for batch in _BATCHES]) for bags in plain]
        symbol = batch_symbol(program)
        self._batch_sizes = {
            node
            for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.sym_size.int)
            if symbol is not None
            and isinstance(size := node.meta.get("val"), torch.SymInt)
            and size.node.expr == symbol
        }
        self._by_key: dict[fx.Node, int] = {}
        held = bag_leaves(program)
        sizes = [s for node, i in self._places.items() if i in held for s in node.meta["val"].shape]
        others = [
            s for node, i in self._places.items() if i not in held for s in getattr(node.meta.get("val"), "shape", ())
        ]
        self._counts = _symbols(sizes) - _symbols(others) - _symbols(self._bound_sizes())

    def _batch_of(self, leaves: Mapping[int, torch.Tensor]) -> int:
        """The batch of drawn leaves."""
        return next(bags.batch(_as_list(leaves)) for bags, drawn in self._drawn if any(leaves is d for d in drawn))

    def _bound_sizes(self) -> list[Any]:
        bounds = {bags.bounds for bags in self._bags}
        return [size for node, i in self._places.items() if i in bounds for size in node.meta["val"].shape]

    def judge(self, node: fx.Node, found: Mapping[fx.Node, OriginOf]) -> OriginOf | None:
        """The origin of a value of bags: by rows if its rows depend on their own bags only; None for values without bags.

        Args:
            node: An operator.
            found: The origins of earlier values.
        """
        rows = None
        if node.target is grouped_lookup:
            rows = self._grouped(node, found)
        elif node.target is operator.getitem and node.args[1] == 0:
            rows = self._pooled(node, found)
        elif node.target in SIZED_RESHAPES:
            keys, shape = self._by_key.get(argument_of(node, 0, fx.Node)), node.meta["val"].shape
            rows = Rows(1) if keys and len(shape) == 3 and shape[0] == keys and isinstance(shape[2], int) else None
        if rows is not None:
            return OriginOf(Origin.REQUEST, rows)
        if _symbols([node.meta.get("val")]) & self._counts:
            return OriginOf(Origin.CANDIDATE, None, "an operator computes with the number of ids")
        return None

    def _grouped(self, node: fx.Node, found: Mapping[fx.Node, OriginOf]) -> Rows | None:
        tables, ids, offsets, weights, dense = (items_of(node, i) for i in range(5))
        if not all(_same_for_all(found[table]) for table in tables) or not all(_by_row(found[v]) for v in dense):
            return None
        features, results = decode(items_of(node, 5)), set[Rows | None]()
        for feature in features:
            factors = weights[feature.weights] if feature.weights >= 0 else None
            if feature.length >= 0:
                values = [value for value in (ids[feature.ids], factors) if value is not None]
                results.add(Rows(0) if all(_by_row(found[value]) for value in values) else None)
                continue
            place = feature.segment, feature.segments, feature.last
            results.add(self._rows(node, (ids[feature.ids], offsets[feature.offsets], factors), place))
        return results.pop() if len(results) == 1 and (len(features) == 1 or results == {Rows(0)}) else None

    def _pooled(self, node: fx.Node, found: Mapping[fx.Node, OriginOf]) -> Rows | None:
        """The rows of the first result of embedding_bag."""
        bag: Any = node.args[0]
        if bag.target not in EMBEDDING_BAGS or not _same_for_all(found[bag.args[0]]):
            return None
        names = [argument.name for argument in bag.target._schema.arguments]
        given = dict(zip(names, bag.args, strict=False)) | dict(bag.kwargs)
        last = bool(given.get("include_last_offset", False))
        return self._rows(node, (bag.args[1], bag.args[2], given.get("per_sample_weights")), (0, 1, last))

    def _rows(self, node: fx.Node, read: tuple[Any, Any, Any], place: tuple[int, int, bool]) -> Rows | None:
        """The rows of a lookup: those of one run, or of all runs of a stream, row after row or run after run."""
        for bags, drawn in self._drawn:
            for run in range(bags.runs):
                if all(self._reads_run(bags, leaves, run, read, place) for leaves in drawn):
                    return Rows(0)
                if place[1] == 1 and all(self._reads_part(bags, leaves, run, read, place[2]) for leaves in drawn):
                    return Rows(0)
            keys = bags.runs // len(bags.streams)
            if place[1] != 1:
                continue
            for first in range(0, bags.runs, keys):
                if all(self._reads_runs(bags, leaves, range(first, first + keys), read, place[2]) for leaves in drawn):
                    if bags.by_row:
                        return Rows(0, keys)
                    self._by_key[node] = keys
        return None

    def _reads_run(
        self,
        bags: Bags,
        leaves: Mapping[int, torch.Tensor],
        run: int,
        read: tuple[Any, Any, Any],
        place: tuple[int, int, bool],
    ) -> bool:
        """Whether a lookup reads the bags of one run, on drawn leaves."""
        segment, segments, last = place
        bounds, lengths = self._bounds(bags, leaves, run, read, last), bags.lengths(_as_list(leaves))
        keys, batch = bags.runs // len(bags.streams), lengths.shape[1]
        if bounds is None or len(bounds) != segments * batch + 1 or (bags.by_row and keys > 1):
            return False
        earlier = lengths[run // keys * keys : run].sum()
        wanted = earlier + torch.cat([lengths.new_zeros(1), lengths[run].cumsum(0)])
        return torch.equal(bounds[segment * batch : (segment + 1) * batch + 1], wanted)

    def _reads_part(
        self, bags: Bags, leaves: Mapping[int, torch.Tensor], run: int, read: tuple[Any, Any, Any], last: bool
    ) -> bool:
        """Whether a lookup reads the ids of one run, cut from those of all runs, in their bags, on drawn leaves."""
        if bags.by_row:
            return False
        ids, offsets, factors = read
        keys, lengths = bags.runs // len(bags.streams), bags.lengths(_as_list(leaves))
        start, own = int(lengths[run // keys * keys : run].sum()), lengths[run]
        part = slice(start, start + int(own.sum()))
        held = [leaves[leaf][part] for leaf in bags.streams[run // keys].leaves]
        values = [self._value(value, leaves) for value in (ids, factors) if value is not None]
        starts = self._value(offsets, leaves)
        if starts is None or any(v is None or all(not _equal(v, entries) for entries in held) for v in values):
            return False
        wanted = torch.cat([own.new_zeros(1), own.cumsum(0)])
        return torch.equal(starts.long(), wanted if last else wanted[:-1])

    def _reads_runs(
        self, bags: Bags, leaves: Mapping[int, torch.Tensor], runs: range, read: tuple[Any, Any, Any], last: bool
    ) -> bool:
        """Whether a lookup reads all bags of some runs in the order of the leaves, on drawn leaves."""
        bounds = self._bounds(bags, leaves, runs[0], read, last)
        lengths = bags.lengths(_as_list(leaves))[runs[0] : runs[-1] + 1]
        ordered = (lengths.T if bags.by_row else lengths).reshape(-1)
        return bounds is not None and torch.equal(bounds, torch.cat([ordered.new_zeros(1), ordered.cumsum(0)]))

    def _bounds(
        self, bags: Bags, leaves: Mapping[int, torch.Tensor], run: int, read: tuple[Any, Any, Any], last: bool
    ) -> torch.Tensor | None:
        """The starts of all bags of a lookup and the number of ids, if it reads the ids and factors of a run's stream; otherwise None."""
        ids, offsets, factors = read
        stream = bags.streams[run * len(bags.streams) // bags.runs]
        values = [self._value(value, leaves) for value in (ids, factors) if value is not None]
        starts = self._value(offsets, leaves)
        if starts is None or starts.ndim != 1 or not stream.leaves:
            return None
        if not all(v is not None and any(_equal(v, leaves[leaf]) for leaf in stream.leaves) for v in values):
            return None
        return starts.long() if last else torch.cat([starts.long(), torch.tensor([len(leaves[stream.leaves[0]])])])

    def _value(self, node: Any, leaves: Mapping[int, torch.Tensor]) -> torch.Tensor | None:
        """The value of a node that is computed from the leaves of one group of bags, constants and the batch; None for other nodes."""
        needed: dict[fx.Node, None] = {}
        values: dict[fx.Node, Any] = {}
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current in needed:
                continue
            if current in self._batch_sizes:
                values[current], needed[current] = self._batch_of(leaves), None
                continue
            if current.op == "placeholder" and self._places[current] not in leaves:
                return None
            needed[current] = None
            waiting += current.all_input_nodes
        for current in sorted(needed):
            if current in values:
                continue
            if current.op == "placeholder":
                values[current] = leaves[self._places[current]]
            elif current.op == "get_attr":
                values[current] = get_state(self._program.module, str(current.target))
            else:
                target: Callable[..., Any] = current.target  # type: ignore[assignment]
                args, kwargs = fx.map_arg((current.args, dict(current.kwargs)), values.__getitem__)
                try:
                    values[current] = target(*args, **kwargs)
                except Exception:  # noqa: BLE001 - an operator that refuses drawn bags does not read them as such
                    return None
        return values[node] if isinstance(values[node], torch.Tensor) else None


def _equal(value: torch.Tensor, entries: torch.Tensor) -> bool:
    """Whether a value holds the entries of a leaf, perhaps in another type."""
    return torch.equal(value, entries.to(value.dtype))


def _symbols(sizes: Iterable[Any]) -> set[Any]:
    """The free symbols of sizes, and of the sizes of tensors."""
    found: set[Any] = set()
    for size in sizes:
        if isinstance(size, torch.SymInt):
            found |= size.node.expr.free_symbols
        elif isinstance(size, torch.Tensor):
            found |= _symbols(size.shape)
        elif isinstance(size, tuple | list):
            found |= _symbols(size)
    return found


def _as_list(leaves: Mapping[int, torch.Tensor]) -> list[Any]:
    """Leaves by position as a list; None for the others."""
    return [leaves.get(position) for position in range(max(leaves) + 1)]


def _draw(bags: Bags, batch: int, program: Program) -> dict[int, torch.Tensor]:
    """Leaves of bags of drawn lengths. Entries are numbered, so that another order or another leaf is seen."""
    generator = torch.Generator().manual_seed(batch)
    lengths = torch.randint(1, _MOST_IDS, (bags.runs, batch), generator=generator)
    specs, found, start = program.signature.leaves, dict[int, torch.Tensor](), 1
    counts = [int(part.sum()) for part in lengths.chunk(len(bags.streams))]
    for stream, count in zip(bags.streams, counts, strict=True):
        for leaf in stream.leaves:
            found[leaf] = torch.arange(start, start + count).to(specs[leaf].dtype or torch.int64)
            start += count
    bounds = _bounds_of(bags, lengths, len(specs[bags.bounds].shape))
    found[bags.bounds] = bounds.to(specs[bags.bounds].dtype or torch.int64)
    return found


def _bounds_of(bags: Bags, lengths: torch.Tensor, rank: int) -> torch.Tensor:
    """The leaf with the bounds of bags of the given lengths [runs, B]."""
    if bags.by_row:
        return lengths.T.contiguous()
    own = lengths.reshape(len(bags.streams), -1)
    if bags.form is not Form.LENGTHS:
        ends = own.cumsum(1)
        own = torch.cat([torch.zeros_like(ends[:, :1]), ends if bags.form is Form.SPLITS else ends[:, :-1]], 1)
    if rank > 1 and len(bags.streams) == 1:
        return own.reshape(bags.runs, -1)
    return own if rank > 1 else own.reshape(-1)


def _by_row(origin: OriginOf) -> bool:
    return origin.origin is not Origin.CANDIDATE and (origin.rows is None or origin.rows == Rows(0))


def _same_for_all(origin: OriginOf) -> bool:
    return origin.origin is not Origin.CANDIDATE and origin.rows is None


def cut_bags(bags: Bags, leaves: Sequence[Any], start: int, end: int) -> dict[int, torch.Tensor]:
    """The leaves of the bags of some rows: position -> leaf."""
    rows = torch.arange(start, end).expand(bags.runs, -1)
    return bags.resample(leaves, rows)
