"""The operands of conformance cases, and the table that cases are entered in."""

from __future__ import annotations

from typing import Any

import torch
from conformance_kit import Case, Constant, Input

_RNG = torch.Generator().manual_seed(11)

X = Input("x", ("batch", 6))
Y = Input("y", ("batch", 6))
COLUMN = Input("column", ("batch", 1))
CUBE = Input("cube", ("batch", 4, 6))
OTHER = Input("other", ("batch", 4, 6))
KEYS = Input("keys", ("batch", 6, 5))
IMAGE = Input("image", ("batch", 3, 8, 6))
FLAG = Input("flag", ("batch", 6), torch.bool)
CUBE_FLAG = Input("cube_flag", ("batch", 4, 6), torch.bool)
IDS = Input("ids", ("batch",), torch.int64)
ID_ROWS = Input("id_rows", ("batch", 4), torch.int64)
PICKS = Input("picks", ("batch", 4, 6), torch.int64)
SHORT_IDS = Input("short_ids", ("batch",), torch.int32)
FACTORS = Input("factors", ("batch",))
NO_BATCH = Input("request", (1, 6))


def weights(*shape: int) -> Constant:
    return Constant(torch.randn(shape, generator=_RNG))


def positive(*shape: int) -> Constant:
    return Constant(torch.rand(shape, generator=_RNG) + 0.5)


def numbers(values: Any, dtype: torch.dtype = torch.int64) -> Constant:
    return Constant(torch.tensor(values, dtype=dtype))


CASES: list[Case] = []


def case(target: Any, *args: Any, sums: bool = False, **keywords: Any) -> None:
    count = sum(c.target is target for c in CASES)
    CASES.append(Case(f"{str(target).removeprefix('aten.')}-{count}", target, args, keywords, sums))
