"""Models that read a user's history."""

from __future__ import annotations

from benchmarks.case import table_gigabytes
from benchmarks.zoo_case import zoo_case

_AMAZON = (192_403, 63_002)
_ROWS = "192k users, 63k items"
_DIN_ROWS = 102_400  # behaviours in a batch: eager keeps five vectors of 128 to 512 numbers for each
_MILLION = (1_000_000, 1_000_000, 100_000)

CASES = (
    *(
        zoo_case(
            name,
            f"{_ROWS} x 64, {length} behaviours, attention 80-40, top 200-80-1",
            table_gigabytes(_AMAZON, 64),
            model="din",
            dim=64,
            length=length,
            attention=(80, 40),
            hidden=(200, 80),
            max_batch=_DIN_ROWS // length,
        )
        for name, length in (("din", 50), ("din-100", 100), ("din-1000", 1000))
    ),
    zoo_case(
        "din-250",
        "DeepRecSys DIN sizes, rows capped at 1M: 1M users, 1M items, 100k categories x 32, 250 behaviours, top 200-80-1",
        table_gigabytes(_MILLION, 32),
        model="din",
        num_users=_MILLION[0],
        num_items=_MILLION[1],
        categories=_MILLION[2],
        dim=32,
        length=250,
        hidden=(200, 80),
    ),
    zoo_case(
        "dien",
        f"{_ROWS} x 18, 50 behaviours, GRU and AUGRU of 36, top 200-80-1",
        table_gigabytes(_AMAZON, 18),
        dim=18,
        length=50,
        state=36,
        hidden=(200, 80),
    ),
    zoo_case(
        "bst",
        f"{_ROWS} x 16, 20 behaviours, 1 layer of 8 heads, top 1024-512-256-1",
        table_gigabytes(_AMAZON, 16),
        dim=16,
        length=20,
        layers=1,
        heads=8,
        hidden=(1024, 512, 256),
    ),
    zoo_case(
        "sasrec",
        "12k items x 50, sequences of 50, 2 layers of 1 head, 101 candidates",
        table_gigabytes((12_102,), 50),
        length=50,
        dim=50,
        layers=2,
        heads=1,
        candidates=101,
    ),
)
