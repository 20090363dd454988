"""The index: quantised items, and exact top-k search among them."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels.library import missing
from recfx.kernels.searches import Scan, scan, shortlist
from recfx.retrieval import files, reference
from recfx.retrieval import grid as grids
from recfx.retrieval.calls import Allow, answer, described
from recfx.retrieval.encoding import encode_blocks
from recfx.retrieval.exclusion import Exclude, compressed
from recfx.retrieval.faiss_export import FaissKind, to_faiss
from recfx.retrieval.fitting import better_rows, fit
from recfx.retrieval.item_ids import Array, ItemIds, tensor_of
from recfx.retrieval.items import Items
from recfx.retrieval.options import Metric, checked_codes, checked_options, checked_size
from recfx.retrieval.packing import BITS, pack, pack_bytes, to_blocks
from recfx.retrieval.queries import prepare
from recfx.retrieval.store import Store

_WHERE = "recfx.retrieval.Index"


class Index(Items):
    """Items as codes of 1, 2, 4 or 8 bits, with exact search among the values of the codes. An item is x_hat = lower +
    step * codes. A query is rounded too: to its signs times its mean magnitude, or to 8 bits. Items rank by the dot
    product of the two, which is computed in integers. Among items of equal score, those of lower id come first. Answers
    depend neither on the number of threads nor on the processor. Several searches may run at the same time, but no
    search may run during `add`, `update` or `delete`.

    Attributes:
        bits: Bits of a code.
        dim: Codes of an item.
        metric: `ip` ranks by dot products, `cosine` by dot products of rows of length 1, `hamming` by the number of
            differing bits.
        query_bits: 1 or 8.
    """

    @staticmethod
    def from_embeddings(
        items: Array,
        bits: int = 1,
        metric: Metric = "ip",
        *,
        scales: grids.Kind | None = None,
        query_bits: int | None = None,
        ids: Array | None = None,
    ) -> Index:
        """Rounds embeddings to codes.

        At 1 bit codes are signs, -s or s with s the mean magnitude; with more bits they divide the range from the
        smallest to the largest value. Symmetric rows have levels symmetric about zero, whose distance is fitted to the
        row, and one constant instead of two. With few bits, their error is smaller for values about zero.

        Args:
            items: Floating point [n, d], d at most 65,536.
            bits: 1, 2, 4 or 8.
            metric: See the class.
            scales: Whether the whole `table`, each `row` (from its smallest to its largest value, or `symmetric`) or each `dimension` has a
                grid of its own. By default `symmetric` or `row`, whichever has the smaller error on these items, so
                that the lengths of items count in the ranking; with the metric `hamming`, `table`.
            query_bits: 1 (1-bit items only) or 8. By default 8; 1 with 1-bit items and one scale for the table, which
                then rank by the number of differing bits.
            ids: Your own ids of the items, n different int64 other than -1; by default their positions.

        Raises:
            InputError: Options exclude each other, or items are not such a matrix or hold NaN, infinities or huge
                numbers.
        """
        kind = scales or ("table" if metric == "hamming" else "row")
        query_bits = checked_options(bits, metric, kind, query_bits)
        values = grids.checked(tensor_of(items), None, "items")
        checked_size(*values.shape)
        if metric == "cosine":
            values = torch.nn.functional.normalize(values, dim=1)
        undecided = scales is None and metric != "hamming"
        grid, rounding = fit(values, bits, better_rows(values, bits) if undecided else kind)
        store = Store(encode_blocks(values, rounding, bits), len(values), grid, values.shape[1])
        return Index(store, bits, metric, query_bits, undecided=undecided, ids=ItemIds.of(ids, len(values)))

    @staticmethod
    def from_codes(
        codes: Array,
        bits: int,
        lower: Tensor | float | None = None,
        step: Tensor | float | None = None,
        metric: Metric = "ip",
        *,
        query_bits: int | None = None,
        ids: Array | None = None,
    ) -> Index:
        """Makes an index of codes, such as those of a trained quantiser.

        Args:
            codes: uint8 [n, d], each below 2^bits.
            bits: 1, 2, 4 or 8.
            lower: The value of code 0: [] for the table, [n, 1] per row, [1, d] per dimension. If the levels of all
                rows are symmetric about zero to within a few roundings, only the steps are kept.
            step: The difference between the values of neighbouring codes, of the same shape. Without `lower` and
                `step`, the values of codes are -1 and 1 at 1 bit, and the codes themselves otherwise.
            metric: See the class.
            query_bits: See `from_embeddings`. With 1, queries may be codes too.
            ids: See `from_embeddings`.

        Raises:
            InputError: The type, shape or range of codes or constants is wrong, or options exclude each other.
        """
        given: Tensor = tensor_of(codes)
        checked_codes(given, bits, None)
        grid = grids.given(lower, step, given.shape[0], given.shape[1], bits)
        query_bits = checked_options(bits, metric, grid.kind, query_bits)
        checked_size(*given.shape)
        words = pack(given.detach().cpu(), bits)
        store = Store(to_blocks(words), len(given), grid, given.shape[1])
        return Index(store, bits, metric, query_bits, ids=ItemIds.of(ids, len(given)))

    @staticmethod
    def from_packed(
        packed: Array,
        dim: int,
        bits: int,
        lower: Tensor | float | None = None,
        step: Tensor | float | None = None,
        metric: Metric = "ip",
        *,
        query_bits: int | None = None,
        ids: Array | None = None,
    ) -> Index:
        """Makes an index of packed codes; see `from_codes` for the other arguments.

        Args:
            packed: uint8 [n, ceil(dim * bits / 8)], with the codes of a row from the lowest bits of a byte upwards.
            dim: Codes of an item.
            bits: 1, 2, 4 or 8.

        Raises:
            InputError: As in `from_codes`.
        """
        if bits not in BITS or dim < 1:
            raise InputError(
                f"codes have 1, 2, 4 or 8 bits and a dimension, got {bits} and {dim}",
                where=_WHERE,
                hint="pass bits=1, 2, 4 or 8 and a dim of at least 1",
            )
        given: Tensor = tensor_of(packed)
        words = pack_bytes(given.detach().cpu(), dim, bits)
        grid = grids.given(lower, step, len(given), dim, bits)
        query_bits = checked_options(bits, metric, grid.kind, query_bits)
        checked_size(len(given), dim)
        store = Store(to_blocks(words), len(given), grid, dim)
        return Index(store, bits, metric, query_bits, ids=ItemIds.of(ids, len(given)))

    def __repr__(self) -> str:
        options = [
            f"{self.bits} bits",
            f"metric={self.metric!r}",
            f"scales={self.scales!r}",
            f"query_bits={self.query_bits}",
        ]
        return described("Index", len(self), self.dim, options)

    def search(
        self, queries: Array, k: int, exclude: Exclude | None = None, allow: Allow | None = None
    ) -> tuple[Any, Any]:
        """The k best items of each query.

        Args:
            queries: Floating point [Q, d]; with queries of 1 bit also codes, uint8 [Q, d] of 0 and 1, which mean -1 and
                1. One query may be [d]; NumPy arrays give NumPy arrays.
            k: The number of items to find, at least 1.
            exclude: Items to leave out: one tensor of ids for each query, or a tuple of row starts [Q + 1] and ids.
            allow: The only items to find: one tensor of ids for all queries, or ids for each query in the forms of `exclude`.

        Returns:
            Scores, float32 [Q, k], best first, and ids, int64 [Q, k]; of one query [d] both are [k]. If fewer than k items
            remain, the rest of the scores is -inf and the rest of the ids -1. A score is the dot product (`hamming`: minus
            the number of differing bits).

        Raises:
            InputError: The width or type of queries is wrong, they hold NaN or infinities, k is below 1, or an id is
                not an item.
        """
        return answer(self._find, self._ids, self._store, queries, k, exclude, allow, _WHERE)

    def _find(
        self, queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        problem = self._problem(queries, k, exclude, hidden)
        return scan(problem) if missing() is None else reference.scan(problem)

    def shortlist(self, queries: Tensor, k: int, exclude: Exclude | None = None) -> Tensor:
        """The ids that `search` finds, in any order; faster than `search` if k is large. The arguments are those of `search`.

        Returns:
            int64 [Q, k]; the rest is -1 if fewer than k items remain.

        Raises:
            InputError: As in `search`.
        """
        ids: Tensor = answer(self._find_list, self._ids, self._store, queries, k, exclude, None, _WHERE)[1]
        return ids

    def _find_list(
        self, queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A shortlist in the form of a search; it has no scores."""
        found = self._list(queries, k, exclude, hidden)
        return found.new_empty(0), found

    def _list(self, queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None = None) -> Tensor:
        problem = self._problem(queries, k, exclude, hidden)
        return shortlist(problem) if missing() is None else reference.shortlist(problem)

    def _problem(self, queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None = None) -> Scan:
        prepared = prepare(queries, self._store.grid, self._form)
        return Scan(
            blocks=self._store.blocks,
            items=self._store.items,
            dim=self.dim,
            bits=self.bits,
            queries=prepared.rows,
            k=k,
            scale=prepared.scale,
            bias=prepared.bias,
            lower=prepared.lower,
            dead=self._store.dead if hidden is None else hidden,
            exclude=compressed(exclude, len(queries), self._store.items) if exclude is not None else None,
            gain=prepared.gain,
            offset=prepared.offset,
        )

    def copy(self) -> Index:
        """An index of the same items, whose changes leave this one as it is."""
        copied = self._store.copy(), self.bits, self.metric, self.query_bits
        return Index(*copied, undecided=self._undecided, ids=self._ids.copy())

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the index as a folder; see `recfx.retrieval.files`."""
        files.save(self._form, self._store, self._ids, path)

    @staticmethod
    def load(path: str | PathLike[str], *, check: bool = True) -> Index:
        """Maps a saved index into memory; changes are not written to the file. `check` also compares the checksums of
        the codes.

        Raises:
            ArtifactError: The index is missing, damaged, truncated, or of another format version.
        """
        form, store, ids = files.load(path, check=check)
        return Index(store, form.bits, form.metric, form.query_bits, ids=ids)

    def to_faiss(self, kind: FaissKind | None = None) -> object:
        """Exports the items to FAISS; see `recfx.retrieval.faiss_export.to_faiss`."""
        return to_faiss(self._form, self._store, kind, self._ids.own)
