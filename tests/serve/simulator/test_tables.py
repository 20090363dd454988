"""Tables as text."""

from __future__ import annotations

import math

from recfx.serve.simulator.tables import milliseconds, table


def test_columns_are_aligned() -> None:
    assert table(("a", "b"), [("1", "22"), ("333", "4")]) == "a     b\n1    22\n333   4"
    assert table(("", "", ""), [("a", "1", "x"), ("bb", "22", "")]) == "a    1  x\nbb  22"


def test_times_that_do_not_exist_are_dashes() -> None:
    assert milliseconds(1.23456) == "1,234.56 ms"
    assert milliseconds(math.nan) == "-"
