"""Accepted and refused calls of an index: exclusions, codes, options, parts of the work, and searches without
kernels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from retrieval_kit import drawn

from recfx.errors import ArtifactError, InputError
from recfx.retrieval import Index, TwoStageIndex, encoding, files, reference, second_stage
from recfx.retrieval import index as index_module
from recfx.retrieval import queries as queries_module
from recfx.retrieval.exclusion import compressed
from recfx.retrieval.options import checked_codes, checked_options

ids = torch.tensor


def test_excluded_ids_come_out_in_order() -> None:
    starts, held = compressed([ids([3, 1]), ids([]), ids([0, 0, 2])], 3, 4)
    assert starts.tolist() == [0, 2, 2, 5]
    assert held.tolist() == [1, 3, 0, 0, 2]
    starts, held = compressed((ids([0, 0, 3, 3], dtype=torch.int32), ids([2, 0, 1], dtype=torch.uint8)), 3, 4)
    assert (starts.dtype, held.dtype) == (torch.int64, torch.int64)
    assert starts.tolist() == [0, 0, 3, 3]
    assert held.tolist() == [0, 1, 2]
    assert [part.tolist() for part in compressed([], 0, 4)] == [[0], []]
    assert [part.tolist() for part in compressed([ids([])], 1, 0)] == [[0, 0], []]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ([ids([0, 3, 4, -1])], "id 4 is to be left out, but items are 0 to 3"),
        ([ids([0, -1])], "id -1 is to be left out"),
        ([[1]], "must be tensors, not list"),
        ([ids([True])], r"integers \[n\], got torch.bool \[1\]"),
        ([ids([1j])], r"integers \[n\], got torch.complex64 \[1\]"),
        ([ids([[1]])], r"integers \[n\], got torch.int64 \[1, 1\]"),
        ([ids(1)], r"integers \[n\], got torch.int64 \[\]"),
        ([ids([1]), ids([1])], "there are 1 queries and 2 lists of ids"),
        ((ids([0, 1]),), "a tuple of row starts and ids, not of 1 tensors"),
        ((ids([0, 1]), ids([1]), ids([1])), "a tuple of row starts and ids, not of 3 tensors"),
        ((ids([0, 1, 1]), ids([1])), "1 queries need 2 row starts, got 3"),
        ((ids([0]), ids([])), "1 queries need 2 row starts, got 1"),
        ((ids([1, 1]), ids([1])), "row starts must rise from 0 to the number of ids, 1"),
        ((ids([0, 1]), ids([1, 2])), "row starts must rise from 0 to the number of ids, 2"),
        ((ids([0.0, 1.0]), ids([1])), "integers"),
    ],
)
def test_exclusions_that_are_refused(exclude: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compressed(exclude, 1, 4)


def test_row_starts_may_not_go_back() -> None:
    with pytest.raises(InputError, match="row starts must rise"):
        compressed((ids([0, 2, 1, 3]), ids([1, 2, 3])), 3, 4)


def test_codes_are_checked() -> None:
    for bits in (1, 2, 4, 8):
        checked_codes(torch.full((2, 3), (1 << bits) - 1, dtype=torch.uint8), bits, 3)
        checked_codes(torch.empty(0, 3, dtype=torch.uint8), bits, None)
    byte = torch.zeros(2, 3, dtype=torch.uint8)
    bad: list[tuple[Any, int, int | None, str]] = [
        (byte, 3, None, "codes have 1, 2, 4 or 8 bits, not 3"),
        ([[0]], 1, None, "got list"),
        (byte.int(), 1, None, r"got torch.int32 \[2, 3\]"),
        (byte[0], 1, None, r"got torch.uint8 \[3\]"),
        (byte[:, :0], 1, None, r"got torch.uint8 \[2, 0\]"),
        (byte, 1, 4, "codes must have 4 columns, got 3"),
        (byte + 2, 1, None, "code 2 does not fit into 1 bits"),
        (byte + 16, 4, 3, "code 16 does not fit into 4 bits"),
    ]
    for codes, bits, dim, message in bad:
        with pytest.raises(InputError, match=message):
            checked_codes(codes, bits, dim)


def test_which_options_go_together() -> None:
    for bits, kind, chosen in itertools.product((1, 2, 4, 8), ("table", "row", "symmetric", "dimension"), (None, 1, 8)):
        fits = chosen != 1 or (bits == 1 and kind != "dimension")
        if fits:
            expected = chosen or (1 if bits == 1 and kind == "table" else 8)
            assert checked_options(bits, "ip", kind, chosen) == expected  # type: ignore[arg-type]
            assert checked_options(bits, "cosine", kind, chosen) == expected  # type: ignore[arg-type]
        else:
            with pytest.raises(InputError, match="queries of 1 bits do not fit"):
                checked_options(bits, "ip", kind, chosen)  # type: ignore[arg-type]
        if (bits, kind) == (1, "table") and chosen != 8:
            assert checked_options(bits, "hamming", kind, chosen) == 1  # type: ignore[arg-type]
        elif fits:
            with pytest.raises(InputError, match="the metric 'hamming' needs items and queries of 1 bit"):
                checked_options(bits, "hamming", kind, chosen)  # type: ignore[arg-type]
    for bits, metric, kind, chosen, message in (
        (3, "ip", "row", None, "not 3"),
        (4, "l2", "row", None, "the metric 'l2'"),
        (4, "ip", "column", None, "scales per 'column'"),
        (1, "ip", "row", 2, "queries of 2 bits"),
        (4, "ip", "row", 0, "queries of 0 bits"),
        (1, "hamming", "row", 1, "one scale for the table"),
    ):
        with pytest.raises(InputError, match=message):
            checked_options(bits, metric, kind, chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "bits"), [(0, 1), (-1, 4), (8, 3), (8, 0)])
def test_packed_rows_of_no_such_form(dim: int, bits: int) -> None:
    with pytest.raises(InputError, match="codes have 1, 2, 4 or 8 bits and a dimension"):
        Index.from_packed(torch.zeros(2, 1, dtype=torch.uint8), dim, bits)


@pytest.mark.parametrize(
    "packed", [torch.zeros(2, 2), torch.zeros(2, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8)], ids=str
)
def test_packed_rows_of_another_shape(packed: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"9 codes of 1 bits are uint8 \[n, 2\] when packed"):
        Index.from_packed(packed, 9, 1)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 31, 33])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_what_lies_beyond_the_last_code_is_cleared(dim: int, bits: int) -> None:
    packed = torch.full((3, -(-dim * bits // 8)), 255, dtype=torch.uint8)
    index = Index.from_packed(packed, dim, bits)
    assert torch.equal(index.codes(), torch.full((3, dim), (1 << bits) - 1, dtype=torch.uint8))
    whole = Index.from_codes(index.codes(), bits)
    assert torch.equal(index._store.blocks, whole._store.blocks)
    assert (index.scales, index.query_bits) == (whole.scales, whole.query_bits)
    assert packed.min() == 255  # the caller's tensor, which stays unchanged


@pytest.mark.parametrize("scales", ["table", "row"])
def test_constants_go_with_codes_on_grids_of_their_own_rows(scales: Any) -> None:
    index = Index.from_embeddings(drawn(0, 5, 8), 4, scales=scales)
    codes, column = torch.zeros(2, 8, dtype=torch.uint8), torch.ones(2, 1)
    wrong = ((column, column), (column, None), (None, column)) if scales == "table" else ((None, None),)
    message = "leave out lower and step" if scales == "table" else "codes need lower and step"
    for lower, step in wrong:
        with pytest.raises(InputError, match=message):
            index.add(codes, lower, step)
    if scales == "row":
        for lower, step in ((column, None), (None, column)):
            with pytest.raises(InputError, match="lower and step go together"):
                index.add(codes, lower, step)
        index.add(codes + 3, column, 2 * column)
        assert torch.equal(index.decode(ids([5, 6])), torch.full((2, 8), 7.0))
    for bad, message in ((codes[:, :7], "8 columns"), (codes + 16, "does not fit into 4 bits")):
        with pytest.raises(InputError, match=message):
            index.add(bad, *((column, column) if scales == "row" else ()))


@pytest.mark.parametrize("scales", ["table", "row", "dimension"])
def test_items_that_join_an_index_of_cosines_get_length_one(scales: Any) -> None:
    items = drawn(0, 40, 12)
    whole = Index.from_embeddings(items, 8, "cosine", scales=scales)
    index = Index.from_embeddings(items, 8, "cosine", scales=scales)
    index.update(torch.arange(40), items * torch.linspace(0.1, 9, 40)[:, None])
    torch.testing.assert_close(index.decode(), whole.decode(), rtol=0.0, atol=0.02)
    assert index.metric == "cosine"


def test_rows_of_codes_without_items_take_the_kind_of_their_constants() -> None:
    """Only an index whose scales were not given chooses between kinds of rows."""
    empty = torch.zeros(0, 1)
    index = Index.from_codes(torch.empty(0, 32, dtype=torch.uint8), 2, empty, empty)
    index.add(drawn(0, 40, 32))
    assert index.scales == "row"


@pytest.mark.parametrize("bits", [1, 4])
def test_items_are_encoded_a_part_at_a_time(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = encoding.pack

    def pack(codes: torch.Tensor, width: int) -> torch.Tensor:
        sizes.append(len(codes))
        return plain(codes, width)

    values = drawn(0, 50, 16)
    whole = Index.from_embeddings(values, bits)
    monkeypatch.setattr(encoding, "pack", pack)
    for block, expected in ((16 * 20, [20, 20, 10]), (16 * 25, [25, 25]), (3, [1] * 50)):
        monkeypatch.setattr(encoding, "_BLOCK_VALUES", block)
        parts = Index.from_embeddings(values, bits)
        assert sizes == expected
        assert torch.equal(parts.codes(), whole.codes())
        sizes.clear()


@pytest.mark.parametrize("scales", ["table", "row", "symmetric", "dimension"])
def test_the_reference_runs_where_the_kernels_were_not_built(scales: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = drawn(0, 50, 16), drawn(1, 4, 16)
    index, stages = Index.from_embeddings(items, 4, scales=scales), TwoStageIndex.from_embeddings(items, 1, "int8")
    calls: list[str] = []

    def watched(module: Any, name: str, label: str) -> None:
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **more: calls.append(label) or plain(*given, **more))

    for module, name in ((index_module, "scan"), (index_module, "shortlist"), (second_stage, "rescore")):
        watched(module, name, f"kernel {name}")
        watched(reference, name, f"reference {name}")
    found = []
    for absent in (None, "no compiler"):
        for module in (index_module, second_stage, queries_module):
            monkeypatch.setattr(module, "missing", lambda absent=absent: absent)
        calls.clear()
        listed = index.shortlist(asked, 60).sort(1).values
        found.append((*index.search(asked, 60), listed, *stages.search(asked, 60, shortlist=60)))
        kind = "kernel" if absent is None else "reference"
        assert set(calls) >= {f"{kind} scan", f"{kind} shortlist", f"{kind} rescore"}
        assert all(call.startswith(kind) for call in calls)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_reference_goes_through_items_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.from_embeddings(drawn(0, 100, 16), 4)
    index.delete(ids([3, 50, 99]))
    problem = index._problem(drawn(1, 4, 16), 30, [ids([1]), ids([2, 60]), ids([]), ids([98])])
    whole = reference.scan(problem)
    for block in (1, 16 * 7, 16 * 100):
        monkeypatch.setattr(reference, "_BLOCK_VALUES", block)
        for one, other in zip(reference.scan(problem), whole, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_the_reference_scores_a_list_again(k: int) -> None:
    rows, asked = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    listed = ids([[2, -1, 0, 1, -1]])
    values, found = reference.rescore(rows, asked, listed, k)
    assert found.tolist() == [[2, 1, 0, *[-1] * 9][:k]]
    assert values.tolist() == [[6.0, 2.0, 1.0, *[-torch.inf] * 9][:k]]
    empty = reference.rescore(rows[:0], asked, ids([[-1, -1]]), k)
    assert empty[1].tolist() == [[-1] * k]
    assert empty[0].tolist() == [[-torch.inf] * k]


def test_arrays_are_checked_unless_they_are_not_to_be(tmp_path: Path) -> None:
    Index.from_embeddings(drawn(0, 40, 16), 4).save(tmp_path / "index")
    arrays = tmp_path / "index" / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    for load in (files.load, Index.load):
        with pytest.raises(ArtifactError):
            load(tmp_path / "index")
    form, store, _ = files.load(tmp_path / "index", check=False)
    assert (form.dim, form.bits, len(store)) == (16, 4, 40)
    assert len(Index.load(tmp_path / "index", check=False)) == 40


def test_a_file_is_no_place_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="the path exists and is not an index"):
        Index.from_embeddings(drawn(0, 4, 8)).save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
