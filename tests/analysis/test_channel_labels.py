"""Unified labels: whatever was tied is removed by the same choices of channels."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recfx.analysis.channel_labels import PINNED, Labels, Vector


def removed(labels: Labels, label: int, chosen: set[int]) -> bool:
    return bool(chosen.intersection(labels.channels(label)) - labels.pins)


def vector(*labels: int) -> Vector:
    return np.array(labels, dtype=np.int64)


@given(st.data())
def test_tied_elements_are_removed_together(data: st.DataObject) -> None:
    labels = Labels()
    every = [PINNED, *labels.fresh(6).tolist()]
    tied = []
    kinds = st.sampled_from(["tie", "tie", "product", "pin"])
    for kind in data.draw(st.lists(kinds, max_size=12)):
        first, second = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(every))
        if kind == "product":
            every.append(labels.product(first, second))
        elif kind == "pin":
            labels.pin(vector(first))
        else:
            labels.unify(vector(first), vector(second))
            tied.append((first, second))
    free = sorted({channel for label in every for channel in labels.channels(label)})
    for size in range(3):
        for chosen in itertools.combinations(free, size):
            for first, second in tied:
                assert removed(labels, first, {*chosen}) == removed(labels, second, {*chosen}), (first, second, chosen)


@given(st.integers(2, 4), st.integers(2, 4))
def test_a_merged_axis_divides_into_its_factors(outer: int, inner: int) -> None:
    labels = Labels()
    rows, columns = labels.fresh(outer), labels.fresh(inner)
    merged = labels.products(rows, columns)
    found = labels.divide(merged, outer)
    assert [labels.channels(c) for c in found[0]] == [labels.channels(c) for c in rows]
    assert [labels.channels(c) for c in found[1]] == [labels.channels(c) for c in columns]


def test_dividing_free_elements_ties_them_to_rows_and_columns() -> None:
    labels = Labels()
    merged = labels.fresh(6)
    rows, columns = labels.divide(merged, 2)
    assert labels.channels(merged[4]) == (int(rows[1]), int(columns[1]))
    again = labels.divide(merged, 2)
    assert again[0].tolist() == rows.tolist()


def test_pinned_labels_have_no_channels() -> None:
    labels = Labels()
    (free,) = labels.fresh(1).tolist()
    assert labels.channels(PINNED) == ()
    assert labels.product(free, PINNED) == free
    assert labels.pin(vector(free, free)) == [free]
    assert labels.pin(vector(free)) == []
