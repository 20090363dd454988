"""The index: quantised items, and exact top-k search among them."""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels.library import missing
from recfx.kernels.searches import Scan, scan, shortlist
from recfx.retrieval import files, reference
from recfx.retrieval import grid as grids
from recfx.retrieval.encoding import encode_blocks, round_items
from recfx.retrieval.exclusion import Exclude, compressed
from recfx.retrieval.faiss_export import FaissKind, to_faiss
from recfx.retrieval.fitting import better_rows, fit
from recfx.retrieval.options import Form, Metric, checked_codes, checked_options, checked_size
from recfx.retrieval.packing import BITS, pack, pack_bytes, rows_of, to_blocks, unpack
from recfx.retrieval.queries import prepare
from recfx.retrieval.store import Store, repeated

_WHERE = "recfx.retrieval.Index"


class Index:
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

    def __init__(self, store: Store, bits: int, metric: Metric, query_bits: int, *, undecided: bool = False) -> None:
        self._store = store
        self._undecided = undecided  # the kind of rows is undecided until the first items
        self.dim = store.dim
        self.bits = bits
        self.metric: Metric = metric
        self.query_bits = query_bits

    @staticmethod
    def from_embeddings(
        items: Tensor,
        bits: int = 1,
        metric: Metric = "ip",
        *,
        scales: grids.Kind | None = None,
        query_bits: int | None = None,
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

        Raises:
            InputError: Options exclude each other, or items are not such a matrix or hold NaN, infinities or huge
                numbers.
        """
        kind = scales or ("table" if metric == "hamming" else "row")
        query_bits = checked_options(bits, metric, kind, query_bits)
        values = grids.checked(items, None, "items")
        checked_size(*values.shape)
        if metric == "cosine":
            values = torch.nn.functional.normalize(values, dim=1)
        undecided = scales is None and metric != "hamming"
        grid, rounding = fit(values, bits, better_rows(values, bits) if undecided else kind)
        store = Store(encode_blocks(values, rounding, bits), len(values), grid, values.shape[1])
        return Index(store, bits, metric, query_bits, undecided=undecided)

    @staticmethod
    def from_codes(
        codes: Tensor,
        bits: int,
        lower: Tensor | float | None = None,
        step: Tensor | float | None = None,
        metric: Metric = "ip",
        *,
        query_bits: int | None = None,
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

        Raises:
            InputError: The type, shape or range of codes or constants is wrong, or options exclude each other.
        """
        checked_codes(codes, bits, None)
        grid = grids.given(lower, step, codes.shape[0], codes.shape[1], bits)
        query_bits = checked_options(bits, metric, grid.kind, query_bits)
        checked_size(*codes.shape)
        words = pack(codes.detach().cpu(), bits)
        return Index(Store(to_blocks(words), len(codes), grid, codes.shape[1]), bits, metric, query_bits)

    @staticmethod
    def from_packed(
        packed: Tensor,
        dim: int,
        bits: int,
        lower: Tensor | float | None = None,
        step: Tensor | float | None = None,
        metric: Metric = "ip",
        *,
        query_bits: int | None = None,
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
            raise InputError(f"codes have 1, 2, 4 or 8 bits and a dimension, got {bits} and {dim}", where=_WHERE)
        words = pack_bytes(packed.detach().cpu(), dim, bits)
        grid = grids.given(lower, step, len(packed), dim, bits)
        query_bits = checked_options(bits, metric, grid.kind, query_bits)
        checked_size(len(packed), dim)
        return Index(Store(to_blocks(words), len(packed), grid, dim), bits, metric, query_bits)

    def __len__(self) -> int:
        """The number of items that were not deleted."""
        return len(self._store)

    @property
    def next_id(self) -> int:
        """The id of the next added item. The ids of deleted items are not used again."""
        return self._store.items

    @property
    def scales(self) -> grids.Kind:
        """The codes that share constants: all codes of the `table`, those of a `row` (`symmetric`: with levels
        symmetric about zero), or those of a `dimension`."""
        return self._store.grid.kind

    @property
    def nbytes(self) -> int:
        """Bytes of codes and constants."""
        return self._store.nbytes

    def search(self, queries: Tensor, k: int, exclude: Exclude | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each query.

        Args:
            queries: Floating point [Q, d]; with queries of 1 bit also codes, uint8 [Q, d] of 0 and 1, which mean -1 and
                1.
            k: The number of items to find, at least 1.
            exclude: Items to leave out: one tensor of ids for each query, or a tuple of row starts [Q + 1] and ids.

        Returns:
            Scores, float32 [Q, k], best first, and ids, int64 [Q, k]. If fewer than k items remain, the rest of
            the scores is -inf and the rest of the ids -1. A score is the dot product (`hamming`: minus the number of
            differing bits).

        Raises:
            InputError: The width or type of queries is wrong, they hold NaN or infinities, k is below 1, or an id is
                not an item.
        """
        problem = self._problem(queries, k, exclude)
        return scan(problem) if missing() is None else reference.scan(problem)

    def shortlist(self, queries: Tensor, k: int, exclude: Exclude | None = None) -> Tensor:
        """The ids that `search` finds, in any order; faster than `search` if k is large. The arguments are those of `search`.

        Returns:
            int64 [Q, k]; the rest is -1 if fewer than k items remain.

        Raises:
            InputError: As in `search`.
        """
        problem = self._problem(queries, k, exclude)
        return shortlist(problem) if missing() is None else reference.shortlist(problem)

    @property
    def _form(self) -> Form:
        return Form(self.dim, self.bits, self.metric, self.query_bits)

    def _problem(self, queries: Tensor, k: int, exclude: Exclude | None) -> Scan:
        prepared = prepare(queries, self._store.grid, self._form)
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}", where=_WHERE)
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
            dead=self._store.dead,
            exclude=compressed(exclude, len(queries), self.next_id) if exclude is not None else None,
            gain=prepared.gain,
            offset=prepared.offset,
        )

    def codes(self, ids: Tensor | None = None) -> Tensor:
        """The codes of items, by default of all items, uint8 [n, d]."""
        return unpack(rows_of(self._store.blocks, self._chosen(ids)), self.dim, self.bits)

    def decode(self, ids: Tensor | None = None) -> Tensor:
        """The values of items' codes, by default of all items, float32 [n, d]."""
        chosen = self._chosen(ids)
        return self._store.grid.rows(chosen).decode(self.codes(chosen))

    def add(self, items: Tensor, lower: Tensor | None = None, step: Tensor | None = None) -> Tensor:
        """Adds items and returns their ids, int64 [n]. When rows with two constants are added to symmetric rows, all
        rows of the index become rows with two constants, and so do embeddings that are added later.

        Args:
            items: Embeddings, which are rounded to the grid of the table or dimension or to grids of their own rows, or codes, uint8.
            lower: For codes with grids of their own rows, the value of code 0, [n, 1].
            step: For such codes, the difference between the values of neighbouring codes, [n, 1].

        Raises:
            InputError: As in `from_embeddings` and `from_codes`.
        """
        words, grid = self._rounded(items, lower, step)
        checked_size(self.next_id + len(words), self.dim)
        return self._store.append(words, grid)

    def update(self, ids: Tensor, items: Tensor, lower: Tensor | None = None, step: Tensor | None = None) -> None:
        """Replaces items by new values, which have the form of `add`; deleted items come back.

        Args:
            ids: Integers [n], each once.
            items: n items, see `add`.
            lower: See `add`.
            step: See `add`.

        Raises:
            InputError: As in `add`; or an id is not an item or occurs twice, or the numbers of ids and items differ.
        """
        chosen = self._store.known(ids)
        words, grid = self._rounded(items, lower, step)
        if len(chosen) != len(words) or repeated(chosen):
            raise InputError(f"{len(words)} items need as many ids, each once; got {len(chosen)}", where=_WHERE)
        self._store.write(chosen, words, grid)

    def delete(self, ids: Tensor) -> None:
        """Deletes items: searches do not find them, and their ids are not used again.

        Raises:
            InputError: An id is not an item, or was deleted before.
        """
        self._store.delete(self._store.known(ids))

    def _chosen(self, ids: Tensor | None) -> Tensor:
        return torch.arange(self.next_id) if ids is None else self._store.known(ids)

    def live_ids(self) -> Tensor:
        """The ids of items that were not deleted, int64 [n]."""
        return self._store.live_ids()

    def _rounded(self, items: Tensor, lower: Tensor | None, step: Tensor | None) -> tuple[Tensor, grids.Grid]:
        undecided = self._undecided and not self.next_id
        return round_items(items, lower, step, self._store.grid, self._form, undecided=undecided)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the index as a folder; see `recfx.retrieval.files`."""
        files.save(self._form, self._store, path)

    @staticmethod
    def load(path: str | PathLike[str], *, check: bool = True) -> Index:
        """Maps a saved index into memory; changes are not written to the file. `check` also compares the checksums of
        the codes.

        Raises:
            ArtifactError: The index is missing, damaged, truncated, or of another format version.
        """
        form, store = files.load(path, check=check)
        return Index(store, form.bits, form.metric, form.query_bits)

    def to_faiss(self, kind: FaissKind | None = None) -> object:
        """Exports the items to FAISS; see `recfx.retrieval.faiss_export.to_faiss`."""
        return to_faiss(self._form, self._store, kind)
