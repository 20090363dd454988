"""Arguments of graph nodes as JSON and back; each damaged form is refused with its reason."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir.plain_values import decode, decode_key, decode_plain, encode

VALUES: list[Any] = [
    None, True, False, 0, -3, (1 << 63) - 1, -(1 << 63), 0.5, -0.0, 1e300, "", "text", [], [1, [2.0, "x"]], (), (1, (None,)), [(1,)],
    slice(None), slice(1, None, 2), slice(0, 5), range(0, 5), range(5, 0, -1), torch.device("cpu"), torch.device("cuda:1"),
    torch.device("meta"), 1 + 2j, complex(math.inf, -0.0), torch.float32, torch.bfloat16, torch.bool, torch.strided, torch.sparse_coo,
    torch.contiguous_format, torch.preserve_format, math.inf, -math.inf,
]  # fmt: skip


def through_json(value: Any) -> Any:
    return decode_plain(json.loads(json.dumps(encode(value), allow_nan=False)), "here")


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive(value: Any) -> None:
    found = through_json(value)
    assert type(found) is type(value)
    assert found == value
    if isinstance(value, float):
        assert math.copysign(1, found) == math.copysign(1, value)


def test_not_a_number_survives() -> None:
    assert math.isnan(through_json(math.nan))


def test_nodes_are_looked_up_by_name() -> None:
    node = fx.Graph().placeholder("x")
    assert encode([node, 1]) == {"list": [{"node": "x"}, 1]}
    assert decode(encode([node, 1]), {"x": node}.__getitem__, "here") == [node, 1]
    with pytest.raises(ArtifactError, match="expected a plain value, got the graph node 'x'"):
        decode_plain({"node": "x"}, "here")


class Number(int):
    pass


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, Number(3), object(), {1: 2}, {1}, torch.ones(2), b"x", len])
def test_values_that_cannot_be_saved(value: Any) -> None:
    with pytest.raises(ArtifactError, match="cannot be saved"):
        encode(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"list": [value]}
    return value


REFUSED: list[tuple[Any, str]] = [
    ([1], "expected an argument, got a list"),
    ({}, "is not an argument"),
    ({"list": [], "tuple": []}, "is not an argument"),
    ({"slice": []}, "expected three parts of a slice, got 0"),
    ({"slice": [0, 1]}, "expected three parts of a slice, got 2"),
    ({"slice": [0, 1, 1, 1]}, "expected three parts of a slice, got 4"),
    ({"device": "cpu:"}, "is not an argument"),
    ({"device": "disk"}, "is not an argument"),
    ({"device": "cuda:1000"}, "is not an argument"),
    ({"dtype": "float3"}, "is not an argument"),
    ({"dtype": "strided"}, "is not an argument"),
    ({"layout": "float32"}, "is not an argument"),
    ({"memory_format": "none"}, "is not an argument"),
    ({"unknown": "cpu"}, "is not an argument"),
    ({"list": 3}, "expected a list, got an integer"),
    ({"tuple": "ab"}, "expected a list, got a string"),
    ({"range": [0, 1]}, "expected 3 values, got 2"),
    ({"range": [0, 1, "x"]}, "expected an integer, got a string"),
    ({"complex": [1.0]}, "expected 2 values, got 1"),
    ({"complex": ["x", 1.0]}, "expected a number, got a string"),
    ({"float": "many"}, "expected a number"),
    ({"node": 3}, "expected a string, got an integer"),
    (nested(9), "is not an argument"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=lambda item: str(item)[:40])
def test_damaged_values(value: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as raised:
        decode(value, lambda name: name, "the node here")
    assert raised.value.where is not None


def test_the_deepest_value() -> None:
    assert decode_plain(nested(8), "here") == [[[[[[[[1]]]]]]]]


@pytest.mark.parametrize("key", ["a", 3, True, 0.5, None, (1, ("a", None))])
def test_keys(key: Any) -> None:
    assert decode_key(encode(key), "here") == key


@pytest.mark.parametrize("key", [[1], (1, [2]), slice(1), torch.float32, range(3)])
def test_keys_that_are_no_plain_scalars(key: Any) -> None:
    with pytest.raises(ArtifactError, match="expected a key of plain scalars"):
        decode_key(encode(key), "here")


def test_descriptions_of_classes_may_hold_lists() -> None:
    assert decode_key(encode([1, ("a", [2])]), "here", hashable=False) == [1, ("a", [2])]
    with pytest.raises(ArtifactError, match="expected a key of plain scalars"):
        decode_key(encode([1, slice(2)]), "here", hashable=False)
