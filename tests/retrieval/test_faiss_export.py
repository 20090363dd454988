"""Export to FAISS, if it is installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from recfx.errors import InputError, TargetError
from recfx.retrieval import Index, faiss_export

KINDS = ["binary", "ivf", "hnsw", "rabitq"]


def drawn(seed: int, rows: int, dim: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [64, 61])
@pytest.mark.parametrize("deleted", [False, True])
def test_faiss_counts_the_same_bits(dim: int, deleted: bool) -> None:
    np, _ = pytest.importorskip("numpy"), pytest.importorskip("faiss")
    index = Index.from_embeddings(drawn(0, 500, dim), 1, "hamming")
    if deleted:
        index.delete(torch.arange(0, 500, 7))
    queries = drawn(1, 6, dim)
    distances, ids = index.to_faiss("binary").search(np.packbits((queries > 0).numpy(), axis=1, bitorder="little"), 20)
    scores, own = index.search(queries, 20)
    assert torch.equal(-scores, torch.from_numpy(distances).float())
    if not deleted:
        assert torch.equal(own, torch.from_numpy(ids))
    assert torch.isin(torch.from_numpy(ids), index.live_ids()).all()


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("deleted", [False, True])
def test_faiss_finds_most_of_what_codes_rank_first(kind: Any, deleted: bool) -> None:
    faiss = pytest.importorskip("faiss")
    index = Index.from_embeddings(drawn(0, 4000, 32), 8)
    if deleted:
        index.delete(torch.arange(0, 4000, 7))
    made = index.to_faiss(kind)
    if hasattr(made, "nprobe"):
        made.nprobe = made.nlist
    queries = drawn(1, 20, 32)
    found = torch.from_numpy(made.search(queries.numpy(), 10)[1])
    expected = index.search(queries, 10)[1]
    assert torch.isin(found, index.live_ids()).all()
    assert float((found[:, :, None] == expected[:, None, :]).any(2).float().mean()) > (0.3 if kind == "rabitq" else 0.8)
    assert made.ntotal == len(index)
    assert isinstance(made, faiss.Index)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_codes_themselves_are_handed_over(kind: Any) -> None:
    faiss = pytest.importorskip("faiss")
    made = Index.from_embeddings(drawn(0, 2000, 32), 1, "hamming").to_faiss(kind)
    assert isinstance(made, faiss.IndexBinary)
    assert made.ntotal == 2000


OTHER_RANKINGS: dict[str, tuple[dict[str, Any], str]] = {
    "more bits": ({"bits": 4}, "codes have 4 bits"),
    "row scales, the default": ({"bits": 1}, "scales per row"),
    "row scales": ({"bits": 1, "scales": "row", "query_bits": 1}, "scales per row"),
    "symmetric rows": ({"bits": 1, "scales": "symmetric", "query_bits": 1}, "scales per row"),
    "scales per dimension": ({"bits": 1, "scales": "dimension"}, "scales per dimension"),
    "queries of 8 bits": ({"bits": 1, "scales": "table", "query_bits": 8}, "queries have 8 bits"),
    "cosine with row scales": ({"bits": 1, "metric": "cosine"}, "scales per row"),
}


@pytest.mark.parametrize("name", OTHER_RANKINGS)
def test_binary_is_refused_where_it_would_rank_otherwise(name: str) -> None:
    options, reason = OTHER_RANKINGS[name]
    index = Index.from_embeddings(drawn(0, 300, 16), **options)
    with pytest.raises(InputError, match=f"{reason}.*\n.*\n.*'hnsw'"):
        index.to_faiss("binary")


@pytest.mark.parametrize("options", [{"metric": "hamming"}, {"scales": "table", "query_bits": 1}], ids=str)
def test_binary_ranks_as_the_index_does_where_it_is_allowed(options: dict[str, Any]) -> None:
    np, faiss = pytest.importorskip("numpy"), pytest.importorskip("faiss")
    index = Index.from_embeddings(drawn(0, 300, 16), 1, **options)
    queries = drawn(1, 4, 16)
    made = index.to_faiss()
    assert isinstance(made, faiss.IndexBinaryFlat)
    ids = made.search(np.packbits((queries > 0).numpy(), axis=1, bitorder="little"), 20)[1]
    assert torch.equal(index.search(queries, 20)[1], torch.from_numpy(ids))


def test_the_default_index_goes_to_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    index = Index.from_embeddings(drawn(0, 300, 16))
    made = index.to_faiss()
    assert isinstance(made, faiss.IndexHNSWSQ)
    assert made.ntotal == 300


def test_what_cannot_be_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.from_embeddings(drawn(0, 10, 8), 4)
    with pytest.raises(InputError, match="is unknown"):
        index.to_faiss("flat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty"):
        Index.from_embeddings(torch.empty(0, 8)).to_faiss()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(TargetError, match="pip install faiss-cpu"):
        index.to_faiss("ivf")


def test_lists_of_inverted_files_grow_with_the_items() -> None:
    """At least 39 items per list, about four times the root of the number of items, at most 65,536 lists."""
    for items, lists in ((1, 1), (38, 1), (78, 2), (4_000, 102), (40_000, 800), (10**9, 65_536)):
        assert faiss_export._lists(items) == lists
    pytest.importorskip("faiss")
    for bits, metric in ((8, "ip"), (1, "hamming")):
        made: Any = Index.from_embeddings(drawn(0, 400, 16), bits, metric).to_faiss("ivf")  # type: ignore[arg-type]
        assert (made.nlist, made.d, made.own_fields) == (10, 16, True)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "rabitq"])
@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("metric", ["ip", "hamming"])
def test_items_are_handed_over_in_parts(kind: Any, deleted: bool, metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    index = Index.from_embeddings(drawn(0, 1200, 16), 1, metric)
    if deleted:
        index.delete(torch.arange(0, 50))
    parts: list[torch.Tensor] = []
    plain = faiss_export._rows
    monkeypatch.setattr(faiss_export, "_ROWS", 512)
    monkeypatch.setattr(faiss_export, "_SHOWN", 3)
    monkeypatch.setattr(faiss_export, "_rows", lambda *held: parts.append(held[2]) or plain(*held))
    made = index.to_faiss(kind)
    if kind != "hnsw" or metric == "ip":  # a graph of codes needs no training
        shown = parts.pop(0)
        assert len(shown) == min(len(index), 3 * faiss_export._lists(len(index)))
        assert torch.isin(shown, index.live_ids()).all()
        assert len(shown.unique()) == len(shown)
    assert torch.equal(torch.cat(parts), index.live_ids())
    assert [len(part) for part in parts] == ([512, 512, 126] if deleted else [512, 512, 176])
    binary = metric == "hamming" and kind != "rabitq"
    assert isinstance(made, faiss.IndexBinary if binary else faiss.Index)
    if not binary and kind != "rabitq":
        held = made.index if hasattr(made, "index") else made
        assert faiss.downcast_index(held).metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize(("metric", "name"), [("ip", "IndexHNSWSQ"), ("hamming", "IndexBinaryHNSW")])
def test_graphs_have_32_neighbours(metric: Any, name: str) -> None:
    faiss = pytest.importorskip("faiss")
    made: Any = Index.from_embeddings(drawn(0, 100, 12), 1, metric).to_faiss("hnsw")
    assert isinstance(made, getattr(faiss, name))
    assert made.hnsw.nb_neighbors(1) == 32
    assert made.d == (16 if metric == "hamming" else 12)
