"""Constant inputs: their fingerprints, calls with and without them, and equality of constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from recfx.errors import InputError
from recfx.ir.constants import fingerprint, same_constant, without_constants

C = torch.arange(6.0).view(2, 3)


def test_a_fingerprint_depends_on_values_shape_and_type() -> None:
    base = fingerprint(C)
    assert (base.dtype, base.shape, len(base.digest)) == ("float32", (2, 3), 32)
    assert fingerprint(C.clone()) == base == fingerprint(C.T.contiguous().T)
    others = [C + 1, C.view(3, 2), C.to(torch.float64), C.view(torch.int32), C[:, :2]]
    assert all(fingerprint(other) != base for other in others)


CHECKED = {"c": fingerprint(C)}
FORWARD = ("a", "c", "b")


@pytest.mark.parametrize(
    ("args", "kwargs", "left", "rest"),
    [
        ((1, 2), {}, (1, 2), {}),
        ((1, C, 2), {}, (1, 2), {}),
        ((1, C.clone()), {"b": 2}, (1,), {"b": 2}),
        ((1,), {"b": 2, "c": C}, (1,), {"b": 2}),
        ((1,), {"b": 2}, (1,), {"b": 2}),
        ((), {"a": 1, "b": 2}, (), {"a": 1, "b": 2}),
        ((1, 2, 3, 4), {}, (1, 2, 3, 4), {}),
        ((1, 2), {"other": 3}, (1, 2), {"other": 3}),
    ],
)
def test_constants_may_be_passed_or_left_out(args: Any, kwargs: Any, left: Any, rest: Any) -> None:
    assert without_constants(FORWARD, CHECKED, args, kwargs) == (left, rest)


@pytest.mark.parametrize(("args", "kwargs"), [((1, C + 1, 2), {}), ((1,), {"b": 2, "c": C[:1]}), ((1, 3, 2), {})])
def test_another_value_of_a_constant_is_refused(args: Any, kwargs: Any) -> None:
    with pytest.raises(InputError, match="'c' was declared constant"):
        without_constants(FORWARD, CHECKED, args, kwargs)
    unchecked = without_constants(FORWARD, {"c": None}, args, kwargs)
    assert unchecked == (((1, 2), {}) if len(args) == 3 else ((1,), {"b": 2}))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, False),
        (True, 1, False),
        (math.nan, float("nan"), True),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (complex("nan"), complex("nan"), True),
        (np.float32("nan"), np.float32("nan"), True),
        ("a", "a", True),
        ([1], [1], True),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), False),
        (np.array([1.0]), np.array([1], dtype=np.int64), False),
        (np.array(["x"]), np.array(["x"]), True),
        (torch.zeros(2), torch.zeros(2), False),
    ],
)
def test_constants_that_are_equal(a: Any, b: Any, same: bool) -> None:
    assert same_constant(a, b) is same
    assert same_constant(a, a)
