"""Click models over dense features and one id per sparse field."""

from __future__ import annotations

from benchmarks.case import table_gigabytes
from benchmarks.zoo_case import zoo_case

_CAP = 1_000_000
_EVEN = (100_000,) * 26

# The 26 sparse fields of the Criteo display advertising challenge, as DLRM's preprocessing counts them, capped.
# fmt: off
_KAGGLE = tuple(min(rows, _CAP) for rows in (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
))
# fmt: on
_DEFAULT_ROWS = tuple(min(rows, 100_000) for rows in _KAGGLE)
_CRITEO = "26 Criteo tables (rows capped at 100k)"

CASES = (
    zoo_case(
        "dlrm",
        "26 tables of 100k x 64, bottom 13-512-256-64, dot, top 415-1024-512-256-1",
        table_gigabytes(_EVEN, 64),
        tables=_EVEN,
        dim=64,
        bottom=(512, 256),
        top=(1024, 512, 256),
    ),
    zoo_case(
        "dlrm-kaggle",
        "public Criteo Kaggle DLRM, rows capped at 1M: 26 tables x 16, bottom 13-512-256-64-16, dot, top 512-256-1",
        table_gigabytes(_KAGGLE, 16),
        model="dlrm",
        tables=_KAGGLE,
        dim=16,
        bottom=(512, 256, 64),
        top=(512, 256),
    ),
    zoo_case(
        "deepfm",
        "26 tables of 100k x 16, FM, deep 400-400-400-1",
        table_gigabytes(_EVEN, 17),
        tables=_EVEN,
        dim=16,
        deep=(400, 400, 400),
    ),
    zoo_case(
        "wide-deep",
        f"{_CRITEO} x 32, deep 1024-512-256-1, one crossed column",
        table_gigabytes(_DEFAULT_ROWS, 34),
        dim=32,
        deep=(1024, 512, 256),
    ),
    zoo_case(
        "xdeepfm",
        f"{_CRITEO} x 10, CIN 200-200-200, deep 400-400-1",
        table_gigabytes(_DEFAULT_ROWS, 11),
        dim=10,
        maps=(200, 200, 200),
        deep=(400, 400),
    ),
    zoo_case(
        "dcn-v2",
        f"{_CRITEO} x 16, 3 full cross layers, then 768-768-1",
        table_gigabytes(_DEFAULT_ROWS, 16),
        dim=16,
        cross_layers=3,
        deep=(768, 768),
    ),
    zoo_case(
        "dcn-v2-low-rank",
        f"{_CRITEO} x 16, 3 cross layers of rank 128, then 768-768-1",
        table_gigabytes(_DEFAULT_ROWS, 16),
        model="dcn-v2",
        dim=16,
        cross_layers=3,
        rank=128,
        deep=(768, 768),
    ),
    zoo_case(
        "autoint",
        f"{_CRITEO} x 16, 3 interacting layers of 2 heads x 32",
        table_gigabytes(_DEFAULT_ROWS, 16),
        dim=16,
        layers=3,
        heads=2,
        head_dim=32,
    ),
    zoo_case(
        "mmoe",
        f"{_CRITEO} x 16, 8 experts 256-128, 2 tasks with towers 64-1",
        table_gigabytes(_DEFAULT_ROWS, 16),
        dim=16,
        experts=8,
        expert=(256, 128),
        tasks=2,
        tower=(64,),
    ),
)
