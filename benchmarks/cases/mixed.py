"""Models in which recommendation layers stand beside other networks: text, pictures, convolutions, recurrences."""

from __future__ import annotations

from benchmarks.case import Case, table_gigabytes
from benchmarks.models.field_convolutions import CCPM, FGCNN
from benchmarks.models.hstu import HSTU
from benchmarks.models.image_tower import ImageTower
from benchmarks.models.interest_experts import InterestExperts
from benchmarks.models.mask_net import MaskNet
from benchmarks.models.text_tower import TextTower
from benchmarks.models.two_recurrences import TwoRecurrences
from recfx.zoo import CRITEO_ROWS

_CRITEO = "26 Criteo tables (rows capped at 100k)"
_AMAZON = (192_403, 63_002)

CASES = (
    Case(
        "text-tower",
        "query of 128 tokens through 6 layers of 384 (MiniLM's shape), 100k items x 64, towers to 128",
        TextTower,
        table_gigabytes((30_522,), 384) + table_gigabytes((100_000,), 64),
        max_batch=64,
    ),
    Case(
        "image-tower",
        "100k users and items x 32, pictures of 3 x 32 x 32 through 3 convolutions of 16-32-64, towers 128-64",
        ImageTower,
        table_gigabytes((100_000, 100_000), 32),
    ),
    Case(
        "two-recurrences",
        "192k users, 63k items x 32, 30 behaviours, two GRUs of 64 with attention between them, top 200-80-1",
        TwoRecurrences,
        table_gigabytes(_AMAZON, 32),
    ),
    Case(
        "ccpm",
        f"{_CRITEO} x 16, convolutions over 6, 5 and 3 fields with 4-4-2 channels, deep 256-1",
        CCPM,
        table_gigabytes(CRITEO_ROWS, 16),
    ),
    Case(
        "fgcnn",
        f"{_CRITEO} x 16, 3 convolutions over 7 fields with 14-16-18 channels, inner products, deep 400-400-1",
        FGCNN,
        table_gigabytes(CRITEO_ROWS, 16),
    ),
    Case(
        "hstu",
        "6k users, 3.7k items x 64, 64 behaviours, 2 blocks of 2 heads",
        HSTU,
        table_gigabytes((6_040, 3_707), 64),
    ),
    Case(
        "mask-net",
        f"{_CRITEO} x 16, 3 parallel mask blocks of 64, deep 256-128-1",
        MaskNet,
        table_gigabytes(CRITEO_ROWS, 16),
    ),
    Case(
        "interest-experts",
        "192k users, 63k items x 32, 50 behaviours, attention 80-40, 6 experts 256-128, 3 tasks with towers 64-1",
        InterestExperts,
        table_gigabytes(_AMAZON, 32),
    ),
)
