"""Shapes of the DeepRecSys and MLPerf inference benchmarks, with several ids per field."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.case import Case, table_gigabytes
from benchmarks.multi_hot import MultiHotModel

# Rows are capped so that each of a dozen peers can hold a copy of the tables.
_CAP = 1_000_000
_RM2_CAP = 125_000

# fmt: off
_MLPERF_ROWS = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14,
    40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
)
_MLPERF_HOTS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
# fmt: on


def _case(name: str, summary: str, tables: Sequence[int], dim: int, *, cap: int = _CAP, **sizes: Any) -> Case:
    rows = tuple(min(count, cap) for count in tables)
    if rows != tuple(tables):
        summary += f"; rows capped at {cap:,}"
    build = partial(MultiHotModel, tables=rows, dim=dim, **sizes)
    return Case(name, summary, build, table_gigabytes(rows, dim), large=True)


CASES = (
    _case(
        "rm1",
        "DeepRecSys RM1: 8 tables of 4M x 32, 80 ids each, bottom 128-64-32, concat, top 256-64-1",
        (4_000_000,) * 8,
        32,
        hots=(80,) * 8,
        dense=128,
        bottom=(64, 32),
        top=(256, 64),
    ),
    _case(
        "rm2",
        "DeepRecSys RM2: 32 tables of 500k x 64, 120 ids each, bottom 256-128-64, concat, top 128-64-1",
        (500_000,) * 32,
        64,
        cap=_RM2_CAP,
        hots=(120,) * 32,
        dense=256,
        bottom=(128, 64),
        top=(128, 64),
    ),
    _case(
        "rm3",
        "DeepRecSys RM3: 10 tables of 2M x 32, 20 ids each, bottom 2560-1024-256-32, concat, top 512-256-1",
        (2_000_000,) * 10,
        32,
        hots=(20,) * 10,
        dense=2560,
        bottom=(1024, 256, 32),
        top=(512, 256),
    ),
    _case(
        "wnd",
        "DeepRecSys WnD: 27 tables of 1M x 32, one id each, 512 dense features, concat, top 1024-512-256-1",
        (1_000_000,) * 27,
        32,
        hots=(1,) * 27,
        dense=512,
        bottom=(),
        top=(1024, 512, 256),
    ),
    _case(
        "dlrm-dcnv2",
        "MLPerf DLRM-DCNv2: 26 tables x 128, 214 ids, bottom 13-512-256-128, 3 cross layers of rank 512, 1024-1024-512-256-1",
        _MLPERF_ROWS,
        128,
        hots=_MLPERF_HOTS,
        dense=13,
        bottom=(512, 256, 128),
        top=(1024, 1024, 512, 256),
        cross_layers=3,
        rank=512,
    ),
)
