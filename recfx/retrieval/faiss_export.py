"""Hands an index to FAISS, for corpora past one machine's memory or past searching every item.

    binary   IndexBinaryFlat           the codes themselves, 1 bit
    ivf      IndexBinaryIVF of the codes at 1 bit with the metric `hamming`, otherwise IndexIVFScalarQuantizer of what codes stand for
    hnsw     IndexBinaryHNSW, or IndexHNSWSQ, likewise
    rabitq   IndexIVFRaBitQ            of what codes stand for

`binary` counts bits that differ. Only an index of one scale for the table whose queries have 1 bit ranks by these, so others are refused.
Dimensions are filled up with zeros to a multiple of 8 for binary indices, as FAISS wants them, which changes no distance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from recfx.errors import InputError, TargetError
from recfx.retrieval.packing import rows_of

if TYPE_CHECKING:
    from recfx.retrieval.index import Index

FaissKind = Literal["binary", "ivf", "hnsw", "rabitq"]

_WHERE = "Index.to_faiss"
_NEIGHBOURS = 32  # of a node of HNSW
_MOST_LISTS = 1 << 16
_ROWS = 1 << 16
_SHOWN = 64  # items a list, to train on


def to_faiss(index: Index, kind: FaissKind | None = None) -> Any:
    """Builds an index of FAISS that gives the ids of this one; deleted items are left out.

    Its search takes what FAISS takes: packed bytes for binary indices, rounded at zero by the caller, float32 rows otherwise.

    Args:
        index: Not empty.
        kind: See the module. By default `binary` where that ranks as the index does, and `hnsw` otherwise.

    Raises:
        TargetError: FAISS is not installed.
        InputError: There is no such kind, it would rank otherwise than the index, or the index is empty.
    """
    if kind is None:
        kind = "hnsw" if _other_ranking(index) else "binary"
    if kind not in get_args(FaissKind):
        raise InputError(f"there is no kind {kind!r}; kinds: {', '.join(get_args(FaissKind))}", where=_WHERE)
    if kind == "binary" and (reason := _other_ranking(index)):
        raise InputError(
            f"FAISS's binary indices count bits that differ, and this index ranks otherwise: {reason}",
            where=_WHERE,
            hint="take 'ivf', 'hnsw' or 'rabitq', or build the index with bits=1, metric='hamming'",
        )
    if not len(index):
        raise InputError("an empty index has nothing to hand over", where=_WHERE)
    try:
        import faiss
    except ImportError as error:
        raise TargetError("FAISS is not installed", where=_WHERE, hint="pip install faiss-cpu") from error
    binary = kind == "binary" or (index.bits == 1 and index.metric == "hamming" and kind != "rabitq")
    built = _binary(faiss, index, kind) if binary else _real(faiss, index, kind)
    live = index.live_ids()
    if not built.is_trained:
        order = torch.randperm(len(live), generator=torch.Generator().manual_seed(0))
        built.train(_rows(index, live[order[: _SHOWN * _lists(index)]], binary))
    numbered = len(live) == index.next_id  # then FAISS numbers items as this index does
    kept = built
    if not numbered and not hasattr(built, "nlist"):
        kept = (faiss.IndexBinaryIDMap if binary else faiss.IndexIDMap)(built)
        kept.own_fields = True
        built.this.disown()
    for start in range(0, len(live), _ROWS):
        some = live[start : start + _ROWS]
        rows = _rows(index, some, binary)
        if numbered:
            kept.add(rows)
        else:
            kept.add_with_ids(rows, some.numpy())
    return kept


def _other_ranking(index: Index) -> str | None:
    """Why an index does not rank by bits that differ; None when it does."""
    if index.bits != 1:
        return f"its codes have {index.bits} bits"
    if index.scales != "table":
        return f"its codes have scales per {'row' if index.scales == 'symmetric' else index.scales}"
    if index.query_bits != 1:
        return f"its queries have {index.query_bits} bits"
    return None


def _rows(index: Index, ids: Tensor, binary: bool) -> Any:
    """Items as FAISS takes them."""
    if not binary:
        return index.decode(ids).numpy()
    packed = rows_of(index._store.blocks, ids).contiguous().view(torch.uint8)
    return packed[:, : -(-index.dim // 8)].contiguous().numpy()


def _lists(index: Index) -> int:
    """About four times the root of the number of items, as FAISS's guidelines have it."""
    return max(1, min(_MOST_LISTS, len(index) // 39, int(4 * len(index) ** 0.5)))


def _binary(faiss: Any, index: Index, kind: FaissKind) -> Any:
    dim = -(-index.dim // 8) * 8
    if kind == "binary":
        return faiss.IndexBinaryFlat(dim)
    if kind == "hnsw":
        return faiss.IndexBinaryHNSW(dim, _NEIGHBOURS)
    coarse = faiss.IndexBinaryFlat(dim)
    built = faiss.IndexBinaryIVF(coarse, dim, _lists(index))
    built.own_fields = True
    coarse.this.disown()
    return built


def _real(faiss: Any, index: Index, kind: FaissKind) -> Any:
    metric, kept = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    if kind == "hnsw":
        return faiss.IndexHNSWSQ(index.dim, kept, _NEIGHBOURS, metric)
    coarse = faiss.IndexFlatIP(index.dim)
    built = (
        faiss.IndexIVFScalarQuantizer(coarse, index.dim, _lists(index), kept, metric)
        if kind == "ivf"
        else faiss.IndexIVFRaBitQ(coarse, index.dim, _lists(index), metric)
    )
    built.own_fields = True
    coarse.this.disown()
    return built
