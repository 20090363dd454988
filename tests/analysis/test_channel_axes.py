"""Axes through reshapes, with a free batch."""

from __future__ import annotations

import numpy as np
import sympy

from recfx.analysis.channel_axes import Fixed, fixed, flat, labelled, regrouped, tie
from recfx.analysis.channel_labels import Labels

B = sympy.Symbol("B", positive=True, integer=True)


def test_heads_stay_visible_behind_a_free_batch() -> None:
    labels = Labels()
    heads, columns = labelled(labels, 2), labelled(labels, 4)
    merged = regrouped(labels, [fixed(B), heads, columns], [2 * B, 4])
    assert merged == [(Fixed(B), heads[0]), columns]
    back = regrouped(labels, merged, [B, 2, 4])
    assert back == [fixed(B), heads, columns]


def test_axes_of_size_one_come_and_go() -> None:
    labels = Labels()
    columns = labelled(labels, 4)
    assert regrouped(labels, [fixed(B), columns], [B, 1, 4, 1]) == [fixed(B), (), columns, ()]
    assert labelled(labels, 1) == ()
    assert fixed(1) == ()


def test_an_axis_is_divided_into_new_factors() -> None:
    labels = Labels()
    found = regrouped(labels, [fixed(B), labelled(labels, 12)], [B, 3, 4])
    assert found is not None
    assert [len(axis[0]) for axis in found[1:]] == [3, 4]  # type: ignore[arg-type]


def test_factors_that_do_not_nest_are_refused() -> None:
    labels = Labels()
    assert regrouped(labels, [labelled(labels, 4), labelled(labels, 6)], [3, 8]) is None
    assert regrouped(labels, [labelled(labels, 4)], [2]) is None
    assert regrouped(labels, [fixed(B)], [B, 2]) is None


def test_axes_of_different_factors_are_tied_place_by_place() -> None:
    labels = Labels()
    rows, columns, other = labelled(labels, 2), labelled(labels, 3), labelled(labels, 6)
    assert tie(labels, (*rows, *columns), other)
    whole = flat(labels, (*rows, *columns))
    assert whole is not None
    assert [labels.channels(c) for c in whole] == [labels.channels(c) for c in other[0]]  # type: ignore[union-attr]
    assert not tie(labels, (Fixed(B), *rows), (Fixed(2 * B),))
    assert tie(labels, (Fixed(B), Fixed(sympy.Integer(2))), (Fixed(2 * B),))


def test_large_and_free_axes_have_no_labels() -> None:
    labels = Labels()
    assert isinstance(labelled(labels, 1 << 20)[0], Fixed)
    assert labelled(labels, B) == (Fixed(B),)
    assert flat(labels, fixed(B)) is None
    assert flat(labels, fixed(3)).tolist() == np.zeros(3).tolist()  # type: ignore[union-attr]
