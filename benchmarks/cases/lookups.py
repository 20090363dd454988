"""Models that consist only of lookups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.case import Case, table_gigabytes
from benchmarks.lookup_model import LookupModel


def _case(name: str, summary: str, tables: Sequence[int], hots: Sequence[int], dim: int) -> Case:
    build = partial(LookupModel, tables=tuple(tables), hots=tuple(hots), dim=dim)
    return Case(name, summary, build, table_gigabytes(tables, dim), large=True)


CASES = (
    _case("lookup-one-hot", "26 tables of 100k x 64, one id each", (100_000,) * 26, (1,) * 26, 64),
    _case("lookup-multi-hot", "8 tables of 1M x 32, 80 ids each", (1_000_000,) * 8, (80,) * 8, 32),
    _case(
        "lookup-skewed",
        "2 tables of 2.5M x 64 hold 99 % of the rows, 24 tables of 2k; 20 ids in each of the two, one in the others",
        (2_500_000, 2_500_000, *(2_000,) * 24),
        (20, 20, *(1,) * 24),
        64,
    ),
)
