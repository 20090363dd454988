"""Element-wise operators of values with one number a row, of which a vector takes several rows, at every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import LEVELS, lower, needs_kernels, program_of

pytestmark = needs_kernels

#: Name -> a function of ids [B], x [B] and y [B].
CASES: dict[str, Callable[..., Any]] = {
    "remainder": lambda i, x, y: i % 7,
    "quotient": lambda i, x, y: i // 5,
    "an address": lambda i, x, y: (i % 50) * 3 + i // 50,
    "a mask": lambda i, x, y: (i > 4) & (i < 90),
    "numbers": lambda i, x, y: torch.tanh(x * y + 0.5).relu(),
    "of mixed types": lambda i, x, y: torch.where(i % 2 == 0, x - y, x / 3),
    "one column": lambda i, x, y: (x[:, None] * 2 - y[:, None]).sigmoid(),
}
ROWS = 130


def inputs(rows: int, seed: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(-99, 99, (rows,), generator=rng), *(torch.randn(rows, generator=rng) for _ in range(2))]


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=10)
@given(rows=st.integers(1, ROWS), seed=st.integers(0, 2**32))
def test_any_number_of_rows(name: str, rows: int, seed: int) -> None:
    program = _programs.setdefault(name, program_of(CASES[name], inputs(ROWS, 0)))
    given_rows = inputs(rows, seed)
    for level in LEVELS:
        run = _runs.setdefault((name, level), lower(program, level))
        torch.testing.assert_close(run(*given_rows)[0], CASES[name](*given_rows), rtol=1e-5, atol=1e-6)


_programs: dict[str, Any] = {}
_runs: dict[tuple[str, str], Any] = {}
