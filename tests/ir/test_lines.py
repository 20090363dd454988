"""Constants that grow with the batch are found to be lines."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.lines import Line, line_through


@given(
    batches=st.lists(st.integers(2, 99), min_size=3, max_size=3, unique=True),
    factor=st.integers(-99, 99),
    base=st.integers(-999, 999),
    floating=st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_lines(batches: list[int], factor: int, base: int, floating: bool) -> None:
    values = [factor * b + base for b in batches]
    found = line_through(batches, [float(v) for v in values] if floating else values)
    assert found == Line(factor, base, floating)
    bent = [*values[:2], values[2] + 1]
    assert line_through(batches, bent) is None
