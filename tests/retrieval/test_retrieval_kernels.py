"""Searches at every instruction-set level and number of threads against their reference, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import needs_kernels

from recfx.errors import InputError, TargetError
from recfx.kernels.library import library, search_level
from recfx.kernels.searches import Rounded, Rounding, Scan, rescore, round_queries, scan, shortlist
from recfx.retrieval import reference
from recfx.retrieval.packing import pack, to_blocks, words_of

pytestmark = needs_kernels
relaxed = settings(deadline=None, max_examples=40)


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    bits = draw(st.sampled_from([1, 1, 2, 4, 8]))
    items, dim, queries = draw(st.integers(0, 700)), draw(st.integers(1, 300)), draw(st.integers(1, 20))
    hamming = bits == 1 and draw(st.booleans())
    codes = torch.randint(0, 1 << bits, (items, dim), dtype=torch.uint8, generator=rng)
    if draw(st.booleans()):  # many ties
        codes = codes[torch.randint(0, 3, (items,), generator=rng).clamp(max=max(items - 1, 0))]
    if hamming:
        rows = pack(torch.randint(0, 2, (queries, dim), dtype=torch.uint8, generator=rng), 1)
    else:
        numbers = torch.randint(-127, 128, (queries, dim), dtype=torch.int8, generator=rng)
        rows = torch.nn.functional.pad(numbers, (0, words_of(dim, bits) * (32 // bits) - dim))
    room = -(-items // 16) * 16
    affine, scored = draw(st.booleans()), draw(st.booleans())
    scale, bias = torch.rand(room, generator=rng), torch.randn(room, generator=rng)
    dead = torch.randint(-(2**62), 2**62, (-(-room // 64),), generator=rng) if draw(st.booleans()) else None
    exclude = None
    if draw(st.booleans()):
        masks = torch.rand(queries, items, generator=rng) < draw(st.sampled_from([0.01, 0.5, 1.0]))
        exclude = (torch.nn.functional.pad(masks.sum(1).cumsum(0), (1, 0)), masks.nonzero()[:, 1].contiguous())
    return Scan(
        blocks=to_blocks(pack(codes, bits)) if items else torch.empty(0, words_of(dim, bits), 16, dtype=torch.int32),
        items=items,
        dim=dim,
        bits=bits,
        queries=rows,
        k=draw(st.integers(1, 60)),
        gain=torch.randn(queries, generator=rng) if scored else None,
        offset=torch.randn(queries, generator=rng) if scored else None,
        scale=scale if affine else None,
        bias=bias if affine and draw(st.booleans()) else None,
        lower=draw(st.sampled_from([0.0, -0.5, -127.5])),
        query_sum=torch.randn(queries, generator=rng) if affine else None,
        dead=dead,
        exclude=exclude,
    )


@relaxed
@given(problem=scans())
def test_every_level_and_number_of_threads_gives_the_reference(problem: Scan) -> None:
    values, ids = reference.scan(problem)
    for level in library().search_levels:
        for threads in (1, 2, 5):
            found_values, found_ids = scan(problem, level, threads)
            assert torch.equal(found_ids, ids), level
            assert torch.equal(found_values, values), level
            listed = shortlist(problem, level, threads)
            assert torch.equal(listed.sort(1).values, ids.sort(1).values), level


@pytest.fixture(scope="module")
def many() -> Scan:
    """Enough items for a guess of a list's limit from a sample; every sampled run contains the best items."""
    items, rng = 300_000, torch.Generator().manual_seed(1)
    codes = torch.randint(0, 2, (items, 32), dtype=torch.uint8, generator=rng)
    asked = torch.randint(0, 2, (3, 32), dtype=torch.uint8, generator=rng)
    blocks = -(-items // 16)
    runs = blocks // 1024
    for run in range(runs):
        first = blocks * run // runs * 16
        codes[first : first + 512] = asked[0]
    scale, bias = torch.rand(items, generator=rng), torch.randn(items, generator=rng)
    return Scan(
        to_blocks(pack(codes, 1)),
        items,
        32,
        1,
        pack(asked, 1),
        1,
        scale=scale,
        bias=bias,
        query_sum=torch.randn(3, generator=rng),
    )


@pytest.mark.parametrize("k", [200, 1_500, 10_000])
@pytest.mark.parametrize("plain", [(), ("bias",), ("scale", "bias", "query_sum")])
def test_long_lists_are_exact_whatever_a_sample_says(many: Scan, k: int, plain: tuple[str, ...]) -> None:
    """The first query's sample is better than the other items: the guess leaves fewer than 10,000 items, and the search
    runs again."""
    problem = dataclasses.replace(many, k=k, **dict.fromkeys(plain))  # type: ignore[arg-type]
    values, ids = reference.scan(problem)
    for threads in (1, 2):
        found_values, found_ids = scan(problem, threads=threads)
        assert torch.equal(found_ids, ids)
        assert torch.equal(found_values, values)
        assert torch.equal(shortlist(problem, threads=threads).sort(1).values, ids.sort(1).values)


def test_long_lists_of_what_deletions_leave(many: Scan) -> None:
    dead = torch.full((-(-many.items // 64),), -1)
    dead[::50] = 0
    problem = dataclasses.replace(many, k=9_000, dead=dead)
    values, ids = reference.scan(problem)
    found = scan(problem, threads=2)
    assert int((ids[0] < 0).sum()) > 0
    assert torch.equal(found[0], values)
    assert torch.equal(found[1], ids)


@relaxed
@given(st.data())
def test_rounded_queries_are_those_of_the_reference(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    count, dim = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 130))
    to = data.draw(st.sampled_from(["numbers", "signs", "bits", "codes"]))
    values = torch.randn(count, dim, generator=rng).mul_(data.draw(st.sampled_from([1.0, 1e-44, 1e-30, 1e14])))
    values[torch.rand(count, generator=rng) < 0.2] = 0
    wrong = data.draw(st.sampled_from([float("nan"), float("inf"), -2e15]))
    if to == "codes":
        values, wrong = (values > 0).to(torch.uint8), data.draw(st.sampled_from([2, 255]))
    step, lower, constant = data.draw(st.sampled_from([(1.0, 0.0, 0.0), (0.3, -0.7, 0.1)]))
    asked = Rounding(values, to, step, lower, constant)  # type: ignore[arg-type]
    width = words_of(dim, 2) * 16 if to == "numbers" else words_of(dim, 1)
    if data.draw(st.booleans()) and count:
        row = data.draw(st.integers(0, count - 1))
        values[row, data.draw(st.integers(0, dim - 1))] = wrong
        for run in (round_queries, reference.round_queries):
            with pytest.raises(InputError, match=f"row {row} of queries holds"):
                run(asked, width)
        return
    found, expected = (run(asked, width) for run in (round_queries, reference.round_queries))
    for part in dataclasses.fields(Rounded):
        one, other = getattr(found, part.name), getattr(expected, part.name)
        assert torch.equal(one, other), part.name
        assert one.dtype == other.dtype


def test_queries_reach_up_to_the_largest_number_of_a_search() -> None:
    """1e15 is accepted, and the next float32 number is refused."""
    largest = torch.tensor(1e15)
    for to in ("numbers", "signs", "bits"):
        for sign in (1.0, -1.0):
            for run in (round_queries, reference.round_queries):
                values = torch.tensor([[1.0, 2.0], [float(largest) * sign, 0.0]])
                assert run(Rounding(values, to), 16).gain.isfinite().all()  # type: ignore[arg-type]
                values[1, 1] = largest.nextafter(torch.tensor(torch.inf)) * sign
                with pytest.raises(InputError, match="row 1 of queries holds"):
                    run(Rounding(values, to), 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_searches_name_the_first_row_that_cannot_be_rounded(row: int) -> None:
    values = torch.randn(4, 40)
    values[row, 3] = torch.nan
    values[3, 0] = torch.inf
    problem = Scan(to_blocks(pack(torch.ones(50, 40, dtype=torch.uint8), 8)), 50, 40, 8, Rounding(values, "numbers"), 5)
    for search in (scan, shortlist):
        with pytest.raises(InputError, match=f"row {row} of queries holds NaN"):
            search(problem)


@relaxed
@given(problem=scans(), st_data=st.data())
def test_searches_round_as_the_reference_does(problem: Scan, st_data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(st_data.draw(st.integers(0, 2**32)))
    assert isinstance(problem.queries, torch.Tensor)
    hamming = problem.queries.dtype == torch.int32
    to = st_data.draw(st.sampled_from(["signs", "bits", "codes"] if hamming else ["numbers"]))
    values = torch.randn(len(problem.queries), problem.dim, generator=rng)
    values = (values > 0).to(torch.uint8) if to == "codes" else values
    problem = dataclasses.replace(problem, queries=Rounding(values, to, 0.5, -0.3, 0.2), gain=None, offset=None)
    expected = reference.scan(problem)
    for level in library().search_levels:
        for one, other in zip(scan(problem, level), expected, strict=True):
            assert torch.equal(one, other), level


@pytest.mark.parametrize("bits", [1, 8])
def test_work_enough_for_several_threads(bits: int) -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1 << bits, (20_000, 64), dtype=torch.uint8, generator=rng)
    rows = torch.randint(-127, 128, (70, 64), dtype=torch.int8, generator=rng)
    problem = Scan(to_blocks(pack(codes, bits)), 20_000, 64, bits, rows, 150)
    expected = reference.scan(problem)
    for level in library().search_levels:
        for threads in (1, 2, 3):
            for one, other in zip(scan(problem, level, threads), expected, strict=True):
                assert torch.equal(one, other)


def test_the_largest_products_stay_exact() -> None:
    dim = 1 << 16
    codes = torch.full((3, dim), 255, dtype=torch.uint8)
    codes[1, 0] = 254
    rows = torch.full((1, dim), 127, dtype=torch.int8)
    for level in library().search_levels:
        values, ids = scan(Scan(to_blocks(pack(codes, 8)), 3, dim, 8, rows, 3), level, 1)
        assert ids.tolist() == [[0, 2, 1]]
        assert values[0, 0] == torch.tensor(255 * 127 * dim).float()


@relaxed
@given(st.data())
def test_rescoring(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    items, dim, queries = (data.draw(st.integers(1, n)) for n in (200, 100, 9))
    wanted, k = data.draw(st.integers(0, items)), data.draw(st.integers(1, 40))
    shortlist = torch.stack([torch.randperm(items, generator=rng)[:wanted] for _ in range(queries)])
    shortlist[torch.rand(shortlist.shape, generator=rng) < 0.1] = -1
    kind = data.draw(st.sampled_from([torch.float32, torch.float16, torch.uint8]))
    affine = None
    if kind == torch.uint8:
        rows = torch.randint(0, 256, (items, dim), dtype=torch.uint8, generator=rng)
        asked = torch.randint(-127, 128, (queries, dim), dtype=torch.int8, generator=rng)
        affine = (
            torch.rand(items, generator=rng),
            torch.randn(items, generator=rng),
            torch.randn(queries, generator=rng),
        )
    else:  # small whole numbers, whose sums are exact in any order
        rows = torch.randint(-9, 10, (items, dim), generator=rng).to(kind)
        asked = torch.randint(-9, 10, (queries, dim), generator=rng).float()
    expected = reference.rescore(rows, asked, shortlist, k, affine)
    for level in library().search_levels:
        for threads in (1, 3):
            found = rescore(rows, asked, shortlist, k, affine=affine, level=level, threads=threads)
            assert torch.equal(found[1], expected[1]), level
            assert torch.equal(found[0], expected[0]), level


@relaxed
@given(seed=st.integers(0, 2**32), dim=st.integers(1, 90), half=st.booleans())
def test_rescoring_of_real_rows_has_the_same_bits_at_every_level(seed: int, dim: int, half: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(30, dim, generator=rng).to(torch.float16 if half else torch.float32)
    asked, shortlist = torch.randn(4, dim, generator=rng), torch.arange(30).expand(4, 30).contiguous()
    values, ids = rescore(rows, asked, shortlist, 30, level="portable")
    torch.testing.assert_close(values, (asked @ rows.float().T).gather(1, ids), rtol=1e-4, atol=1e-4)
    for level in library().search_levels:
        found_values, found_ids = rescore(rows, asked, shortlist, 30, level=level)
        assert torch.equal(found_values, values)
        assert torch.equal(found_ids, ids)


@pytest.fixture
def fresh_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets the environment, and clears the cached level before and after."""
    search_level.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    search_level.cache_clear()


def test_levels_by_name(fresh_level: pytest.MonkeyPatch, many: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[bytes] = []
    held = library()
    plain = held.calls["recfx_search"]
    monkeypatch.setitem(held.calls, "recfx_search", lambda name, *rest: run.append(name) or plain(name, *rest))
    for asked, expected in (("portable", "portable"), ("", held.search_levels[0]), (held.levels[0], None)):
        fresh_level.setenv("RECFX_LEVEL", asked)
        search_level.cache_clear()
        scan(many)
        level = expected or (
            asked if asked in held.search_levels else held.search_levels[0]
        )  # models have other levels
        assert run[-1].decode() == search_level() == level
    fresh_level.setenv("RECFX_LEVEL", "none-such")
    scan(many)  # looked up once
    search_level.cache_clear()
    with pytest.raises(TargetError, match="none-such"):
        scan(many)
    with pytest.raises(TargetError, match="at the level 'none-such'"):
        scan(many, "none-such")
