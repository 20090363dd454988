"""Retrieval compared with FAISS: a million items, one query and a batch, exact search in one stage and two.

`python -m benchmarks retrieval`. The compared searches run in turn, so that a disturbance of the machine affects all of
them. Binary codes are drawn uniformly; float rows have Gaussian directions and lengths of a log-normal distribution,
like those that popularity causes. Both are harder than learned embeddings, which lie in clusters.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.markdown import markdown
from recfx.errors import MeasureError
from recfx.retrieval import Index, TwoStageIndex

Run = Callable[[], tuple[Tensor, Tensor]]

_READ_WORDS = 1 << 26  # 512 MiB: beyond any cache


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        case: Numbers of items and queries, and k.
        who: The timed search.
        best: Shortest time, ms.
        median: Median time, ms.
        ratio: The median of the case's first search over this median.
        note: The quality of the answers.
    """

    case: str
    who: str
    best: float
    median: float
    ratio: float
    note: str


def read_bandwidth(threads: int = 1) -> float:
    """Bytes per second that a number of threads read from memory, measured by torch's sum of integers."""
    torch.set_num_threads(threads)
    words = torch.ones(_READ_WORDS, dtype=torch.int64)
    return max(words.nbytes / seconds for seconds in _times([words.sum], 5)[0])


def _times(runs: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """The seconds of each search, timed in turn."""
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for run, times in zip(runs, taken, strict=True):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return taken


def compare(case: str, runs: dict[str, Run], rounds: int, judge: Callable[[Tensor, Tensor], str]) -> list[Row]:
    """Times searches in turn, and compares them with the first.

    Args:
        case: The name of the case.
        runs: Name -> search.
        rounds: Turns of each search.
        judge: Scores and ids -> a note on their quality.
    """
    times = _times(list(runs.values()), rounds)
    first = statistics.median(times[0])
    return [
        Row(case, who, 1e3 * min(own), 1e3 * statistics.median(own), first / statistics.median(own), judge(*run()))
        for (who, run), own in zip(runs.items(), times, strict=True)
    ]


def binary(faiss: Any, items: int, dim: int, k: int, queries: int, rounds: int) -> list[Row]:
    """Compares FAISS's IndexBinaryFlat with recfx on differing bits."""
    rng = torch.Generator().manual_seed(0)
    packed, asked = (torch.randint(0, 256, (n, dim // 8), dtype=torch.uint8, generator=rng) for n in (items, queries))
    index = Index.from_packed(packed, dim, 1, metric="hamming")
    bits = Index.from_packed(asked, dim, 1).codes()
    runs: dict[str, Run] = {}
    if faiss is not None:
        flat = faiss.IndexBinaryFlat(dim)
        flat.add(packed.numpy())

        def theirs() -> tuple[Tensor, Tensor]:
            distances, ids = flat.search(asked.numpy(), k)
            return -torch.from_numpy(distances).float(), torch.from_numpy(ids)

        runs["FAISS IndexBinaryFlat"] = theirs
    runs["recfx 1 bit"] = lambda: index.search(bits, k)
    expected = index.search(bits, k)

    def judge(scores: Tensor, ids: Tensor) -> str:
        return "same answers" if torch.equal(scores, expected[0]) and torch.equal(ids, expected[1]) else "OTHER ANSWERS"

    return compare(f"{items:,} x {dim} bits, {queries} queries, k = {k}", runs, rounds, judge)


def real(faiss: Any, items: int, dim: int, k: int, queries: int, rounds: int) -> list[Row]:
    """Compares searches by dot products of float32 rows: exact search by FAISS and torch, codes of fewer bits, and two
    stages."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(items, dim, generator=rng) * torch.randn(items, 1, generator=rng).mul_(0.3).exp_()
    asked, held_out = torch.randn(queries, dim, generator=rng), torch.randn(64, dim, generator=rng)
    runs: dict[str, Run] = {}
    if faiss is not None:
        flat = faiss.IndexFlatIP(dim)
        flat.add(rows.numpy())

        def theirs() -> tuple[Tensor, Tensor]:
            scores, ids = flat.search(asked.numpy(), k)
            return torch.from_numpy(scores), torch.from_numpy(ids)

        runs["FAISS IndexFlatIP"] = theirs

    def plain() -> tuple[Tensor, Tensor]:
        found = (asked @ rows.T).topk(k)
        return found.values, found.indices

    runs["torch matmul and topk"] = plain
    for bits in (1, 2, 4, 8):
        index = Index.from_embeddings(rows, bits)
        runs[f"recfx {bits} bit"] = lambda index=index: index.search(asked, k)  # type: ignore[misc]
    for bits, fine, recall in ((2, "float32", 0.99), (2, "float32", 0.995), (4, "float32", 0.995), (4, "int8", 0.995)):
        staged = TwoStageIndex.from_embeddings(rows, bits, fine)  # type: ignore[arg-type]
        length = staged.calibrate(held_out, k, recall)
        runs[f"recfx {bits} bit, {length} by {fine}"] = lambda staged=staged: staged.search(asked, k)  # type: ignore[misc]
    expected = (asked @ rows.T).topk(k).indices

    def judge(_: Tensor, ids: Tensor) -> str:
        return f"{float((ids[:, :, None] == expected[:, None, :]).any(2).float().mean()):.2%} of the exact {k}"

    return compare(f"{items:,} x {dim} float32, {queries} queries, k = {k}", runs, rounds, judge)


def measure(items: int = 1_000_000, rounds: int = 15, threads: int = 1) -> str:
    """Runs all comparisons and returns the report, as Markdown.

    Raises:
        MeasureError: There are fewer than 1,000 items, or no rounds.
    """
    if items < 1000 or rounds < 1:
        raise MeasureError(
            "a comparison needs at least a thousand items and one round",
            where="benchmarks.retrieval",
            hint="pass items=1000 or more and rounds=1 or more",
        )
    faiss: Any = importlib.import_module("faiss") if importlib.util.find_spec("faiss") is not None else None
    if faiss is not None:
        faiss.omp_set_num_threads(threads)
    place = environment(["faiss-cpu"])
    bandwidth = read_bandwidth(threads)
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for dim in (64, 256):
        for queries in (1, 64):
            rows += binary(faiss, items, dim, 100, queries, rounds)
    for queries in (1, 64):
        rows += real(faiss, items, 64, 50, queries, max(3, rounds // 3))
    head = ["case", "search", "best ms", "median ms", "x faster", "answers"]
    cells = [[row.case, row.who, f"{row.best:.2f}", f"{row.median:.2f}", f"{row.ratio:.1f}", row.note] for row in rows]
    missing = "" if faiss is not None else "\n\nFAISS is not installed: pip install faiss-cpu"
    return (
        f"{place['date']}, revision {place['revision'] or 'unknown'}; {place['cpu']}, {threads} thread(s), "
        f"read {bandwidth / 1e9:.1f} GB/s from memory; faiss-cpu {place['versions']['faiss-cpu']}, "
        f"torch {place['versions']['torch']}\n\n" + markdown(head, cells, {2, 3, 4}) + missing
    )
