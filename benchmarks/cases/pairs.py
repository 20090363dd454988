"""Models of user-item pairs."""

from __future__ import annotations

from benchmarks.case import table_gigabytes
from benchmarks.zoo_case import zoo_case

CASES = (
    zoo_case(
        "two-tower",
        "6k users, 3.7k items x 64, histories of 50, towers 300-300-128",
        table_gigabytes((6_040, 2 * 3_707), 64),
        length=50,
        dim=64,
        tower=(300, 300, 128),
    ),
    zoo_case(
        "neumf",
        "6k users, 3.7k items, 64 factors, MLP 128-128-64",
        table_gigabytes((2 * 6_040, 2 * 3_706), 64),
        factors=64,
        dim=64,
        hidden=(128, 64),
    ),
    zoo_case(
        "ncf",
        "DeepRecSys NCF sizes: 140k users, 28k items x 64 twice, MLP 128-256-128-64-64",
        table_gigabytes((2 * 140_000, 2 * 28_000), 64),
        model="neumf",
        num_users=140_000,
        num_items=28_000,
        factors=64,
        dim=64,
        hidden=(256, 128, 64, 64),
    ),
    zoo_case(
        "lightgcn",
        "Gowalla sizes: 30k users, 41k items x 64, 810k interactions, 3 propagations in every call",
        table_gigabytes((29_858, 40_981), 64),
        dim=64,
        layers=3,
    ),
    zoo_case(
        "ngcf",
        "Gowalla sizes: 30k users, 41k items x 64, 810k interactions, 3 layers of 64 in every call",
        table_gigabytes((29_858, 40_981), 64),
        dim=64,
        layers=(64, 64, 64),
    ),
    zoo_case(
        "mf",
        "Gowalla sizes: 30k users, 41k items x 64",
        table_gigabytes((29_858, 40_981), 64),
        dim=64,
    ),
)
