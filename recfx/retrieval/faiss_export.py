"""Exports an index to FAISS, for corpora that exceed one machine's memory or are too large for exact search.

    binary   IndexBinaryFlat           the codes themselves, 1 bit
    ivf      IndexBinaryIVF of the codes at 1 bit with the metric `hamming`, otherwise IndexIVFScalarQuantizer of the values
    hnsw     IndexBinaryHNSW of the codes, or IndexHNSWSQ of the values, in the same cases
    rabitq   IndexIVFRaBitQ of the values of the codes

`binary` counts differing bits. Only an index with one scale for the table and queries of 1 bit ranks by that number,
so other indices are refused. For binary indices, FAISS needs a multiple of 8 dimensions: zeros fill them up, which
changes no distance.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from recfx.errors import InputError, TargetError
from recfx.retrieval.grid import Kind
from recfx.retrieval.options import Form
from recfx.retrieval.packing import rows_of, unpack
from recfx.retrieval.store import Store

FaissKind = Literal["binary", "ivf", "hnsw", "rabitq"]

_WHERE = "Index.to_faiss"
_NEIGHBOURS = 32  # neighbours of a node of HNSW
_MOST_LISTS = 1 << 16
_ROWS = 1 << 16
_SHOWN = 64  # training items per list


def to_faiss(form: Form, store: Store, kind: FaissKind | None = None, own: Tensor | None = None) -> Any:
    """Builds a FAISS index with the same ids, without deleted items. Its queries have FAISS's format: float32 rows, or
    packed bytes for binary indices, which the caller rounds at zero.

    Args:
        form: The options of the index.
        store: Its items, at least one.
        kind: See the module's docstring. By default `binary` if that ranks as the index does, and `hnsw` otherwise.
        own: The caller's ids by position, int64; None where ids are positions.

    Raises:
        TargetError: FAISS is not installed.
        InputError: The kind is unknown, its ranking differs from that of the index, or the index is empty.
    """
    if kind is None:
        kind = "hnsw" if _other_ranking(form, store.grid.kind) else "binary"
    if kind not in get_args(FaissKind):
        raise InputError(
            f"the kind {kind!r} is unknown; kinds: {', '.join(get_args(FaissKind))}",
            where=_WHERE,
            hint="pass one of these kinds",
        )
    if kind == "binary" and (reason := _other_ranking(form, store.grid.kind)):
        raise InputError(
            f"FAISS's binary indices count differing bits, but this index ranks in another way: {reason}",
            where=_WHERE,
            hint="pass kind='ivf', 'hnsw' or 'rabitq', or build the index with bits=1, metric='hamming'",
        )
    if not len(store):
        raise InputError("an empty index cannot be exported", where=_WHERE, hint="add items first")
    try:
        import faiss
    except ImportError as error:
        raise TargetError("FAISS is not installed", where=_WHERE, hint="pip install faiss-cpu") from error
    if kind == "rabitq" and not hasattr(faiss, "IndexIVFRaBitQ"):
        raise TargetError(
            f"FAISS {faiss.__version__} has no RaBitQ", where=_WHERE, hint="pip install 'faiss-cpu>=1.11'"
        )
    binary = kind == "binary" or (form.bits == 1 and form.metric == "hamming" and kind != "rabitq")
    lists = _lists(len(store))
    built = _binary(faiss, form, lists, kind) if binary else _real(faiss, form, lists, kind)
    live = store.live_ids()
    if not built.is_trained:
        order = torch.randperm(len(live), generator=torch.Generator().manual_seed(0))
        built.train(_rows(form, store, live[order[: _SHOWN * lists]], binary))
    numbered = own is None and len(live) == store.items  # then FAISS's own numbers are the ids of this index
    kept = built
    if not numbered and not hasattr(built, "nlist"):
        kept = (faiss.IndexBinaryIDMap if binary else faiss.IndexIDMap)(built)
        kept.own_fields = True
        built.this.disown()
    for start in range(0, len(live), _ROWS):
        some = live[start : start + _ROWS]
        rows = _rows(form, store, some, binary)
        if numbered:
            kept.add(rows)
        else:
            kept.add_with_ids(rows, (some if own is None else own[some]).numpy())
    return kept


def _other_ranking(form: Form, scales: Kind) -> str | None:
    """Why an index does not rank by differing bits; None if it does."""
    if form.bits != 1:
        return f"its codes have {form.bits} bits"
    if scales != "table":
        return f"its codes have scales per {'row' if scales == 'symmetric' else scales}"
    if form.query_bits != 1:
        return f"its queries have {form.query_bits} bits"
    return None


def _rows(form: Form, store: Store, ids: Tensor, binary: bool) -> Any:
    """Items in FAISS's format."""
    if not binary:
        codes = unpack(rows_of(store.blocks, ids), form.dim, form.bits)
        return store.grid.rows(ids).decode(codes).numpy()
    packed = rows_of(store.blocks, ids).contiguous().view(torch.uint8)
    return packed[:, : -(-form.dim // 8)].contiguous().numpy()


def _lists(items: int) -> int:
    """The number of lists: about four times the root of the number of items, as FAISS's guidelines recommend."""
    return max(1, min(_MOST_LISTS, items // 39, int(4 * items**0.5)))


def _binary(faiss: Any, form: Form, lists: int, kind: FaissKind) -> Any:
    dim = -(-form.dim // 8) * 8
    if kind == "binary":
        return faiss.IndexBinaryFlat(dim)
    if kind == "hnsw":
        return faiss.IndexBinaryHNSW(dim, _NEIGHBOURS)
    coarse = faiss.IndexBinaryFlat(dim)
    built = faiss.IndexBinaryIVF(coarse, dim, lists)
    built.own_fields = True
    coarse.this.disown()
    return built


def _real(faiss: Any, form: Form, lists: int, kind: FaissKind) -> Any:
    metric, kept = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    if kind == "hnsw":
        return faiss.IndexHNSWSQ(form.dim, kept, _NEIGHBOURS, metric)
    coarse = faiss.IndexFlatIP(form.dim)
    built = (
        faiss.IndexIVFScalarQuantizer(coarse, form.dim, lists, kept, metric)
        if kind == "ivf"
        else faiss.IndexIVFRaBitQ(coarse, form.dim, lists, metric)
    )
    built.own_fields = True
    coarse.this.disown()
    return built
