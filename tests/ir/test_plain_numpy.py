"""NumPy values and enumeration members in files."""

from __future__ import annotations

import enum
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.errors import ArtifactError
from recfx.ir.constants import same_constant
from recfx.ir.plain_values import decode_plain, encode


class Kind(enum.Enum):
    USER = object()


def _again(value: Any) -> Any:
    return decode_plain(json.loads(json.dumps(encode(value))), "here")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scalars_and_arrays_come_back(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["bool", "int8", "uint32", "int64", "float16", "float32", "float64", "complex64"]))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    array = np.random.default_rng(seed).integers(0, 256, (*shape, 16), dtype=np.uint8)
    array = (array.view(np.uint8)[..., 0] % 2).astype(bool) if kind == "bool" else array.view(kind)[..., 0].copy()
    assert same_constant(_again(array), array)
    if array.size:
        scalar = array.reshape(-1)[0]
        assert same_constant(_again(scalar), scalar)


@pytest.mark.parametrize("value", [Kind.USER, range(1, 9, 3), complex("nan"), complex(float("inf"), -0.0)])
def test_other_values_come_back(value: Any) -> None:
    assert same_constant(_again(value), value)


@pytest.mark.parametrize(
    "value",
    [
        {"numpy": ["object", 1]},
        {"numpy": ["float32", "text"]},
        {"numpy": ["int8", 300]},
        {"numpy": ["int8", {"numpy": ["object", 1]}]},
        {"array": ["float32", [2], [1.0]]},
        {"array": ["float32", [-1], [1.0]]},
        {"array": ["float32", [1 << 40, 0], []]},
        {"array": ["float32", [0] * 40, []]},
        {"array": ["float32", [5000], [1.0] * 5000]},
        {"array": ["datetime64", [1], [1]]},
        {"enum": ["os", "environ", "PATH"]},
        {"enum": ["no_such_module", "Kind", "USER"]},
        {"enum": [__name__, "Kind", "name"]},
        {"enum": [__name__, "Kind.__class__", "USER"]},
        {"range": [0, "1", 1]},
        {"complex": [1.0]},
    ],
)
def test_damaged_forms_are_refused(value: Any) -> None:
    with pytest.raises(ArtifactError):
        decode_plain(value, "here")


def test_a_large_array_is_refused_when_written() -> None:
    with pytest.raises(ArtifactError, match="5000 values"):
        encode(np.zeros(5000))
