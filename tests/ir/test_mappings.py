"""Mappings and constants among the inputs: known types, the order of keys, messages about differences, equality."""

from __future__ import annotations

import collections
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.constants import fingerprint, same_constant, without_constants
from recfx.ir.mappings import as_dict, in_captured_order, key_difference, mapping_keys, register_mapping


class Plain(collections.UserDict):  # type: ignore[type-arg]
    """A mapping that is made from a dict."""


class Refuses(collections.UserDict):  # type: ignore[type-arg]
    def __init__(self, *, items: Any = ()) -> None:
        super().__init__(items)


class Forgets(collections.UserDict):  # type: ignore[type-arg]
    def __init__(self, held: Any = ()) -> None:
        super().__init__(list(dict(held).items())[:1])


class Another(dict):  # type: ignore[type-arg]
    def __new__(cls, *held: Any) -> Any:
        return dict.__new__(cls if not held else dict)


def spec_of(value: Any) -> pytree.TreeSpec:
    return pytree.tree_flatten(value)[1]


def test_types_of_mappings_are_learnt_once() -> None:
    for _ in range(2):
        register_mapping(Plain(a=1, b=2))
        leaves, spec = pytree.tree_flatten(Plain(b=1, a=[2]))
        assert leaves == [1, 2]
        again = pytree.tree_unflatten([3, 4], spec)
        assert type(again) is Plain
        assert list(again.items()) == [("b", 3), ("a", [4])]
        assert mapping_keys(spec) == ["b", "a"]
    paths = pytree.tree_flatten_with_path(Plain(b=1))[0]
    assert "b" in str(paths[0][0])
    full = Forgets()
    full.data = {"a": 1, "b": 2}
    for wrong in (Refuses(items={"a": 1}), full):
        with pytest.raises(InputError, match=f"a {type(wrong).__name__} cannot be taken apart and made again"):
            register_mapping(wrong)
        assert type(wrong) not in pytree.SUPPORTED_NODES


def test_keys_of_mappings_of_every_type() -> None:
    assert mapping_keys(spec_of({"b": 1, "a": 2})) == ["b", "a"] or mapping_keys(spec_of({"b": 1, "a": 2})) == [
        "a",
        "b",
    ]
    assert mapping_keys(spec_of(collections.OrderedDict(b=1, a=2))) == ["b", "a"]
    assert sorted(mapping_keys(spec_of(collections.defaultdict(list, b=1, a=2))) or []) == ["a", "b"]
    assert mapping_keys(spec_of({})) == []
    for other in (1, [1], (1, 2), None):
        assert mapping_keys(spec_of(other)) is None


def test_any_mapping_is_a_dict_and_nothing_else_is() -> None:
    for held in (Plain(a=1), collections.OrderedDict(a=1), types.MappingProxyType({"a": 1})):
        assert type(as_dict(held)) is dict
        assert as_dict(held) == {"a": 1}
    for other in ([("a", 1)], 3, None):
        assert as_dict(other) is other


def test_mappings_take_the_captured_type_and_order() -> None:
    captured = {"a": 0, "b": ([0], (0, {"c": 0, "d": 0}))}
    given = collections.OrderedDict(b=([1], (2, Plain(d=3, c=4))), a=5)
    found = in_captured_order(given, spec_of(captured))
    assert type(found) is dict
    assert found == {"a": 5, "b": ([1], (2, {"c": 4, "d": 3}))}
    assert type(found["b"][1][1]) is dict
    assert pytree.tree_leaves(found) == [5, 1, 2, 4, 3]
    wrong = {"a": 5, "c": 6}
    assert in_captured_order(wrong, spec_of(captured)) is wrong
    for value, spec in (([1, 2], (0, 0)), ([1], [0, 0]), (3, {"a": 0}), ([Plain(a=1)], 0)):
        assert in_captured_order(value, spec_of(spec)) is value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 0, "b": [0, {"c": 0}]}, None),
        ({"a": 0}, "f lacks 'b'"),
        ({}, "f lacks 'a', 'b'"),
        ({"a": 0, "b": [0, {"c": 0}], "d": 1, "e": 2}, "f has 'd', 'e', which the captured one lacks"),
        ({"a": 0, "d": 1}, "f lacks 'b' and has 'd', which the captured one lacks"),
        ({"a": 0, "b": [0, {"d": 0}]}, "f['b'][1] lacks 'c' and has 'd', which the captured one lacks"),
        ({"a": 0, "b": (0, {})}, "f['b'][1] lacks 'c'"),
        ({"a": 0, "b": [0]}, None),
        ([0, 1], None),
        (3, None),
    ],
)
def test_the_first_difference_of_keys_in_words(value: Any, text: str | None) -> None:
    assert key_difference(value, spec_of({"a": 0, "b": [0, {"c": 0}]}), "f") == text


def test_fingerprints_tell_contents_types_and_shapes_apart() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(base) == fingerprint(base.clone()) == fingerprint(base.T.contiguous().T)
    others = [base + 1, base.double(), base.reshape(3, 2), base.int(), -base * 0 + base.flip(0), base[:1]]
    assert len({fingerprint(t) for t in (base, *others)}) == 7
    held = fingerprint(base)
    assert (held.dtype, held.shape, len(held.digest)) == ("float32", (2, 3), 32)
    assert fingerprint(torch.tensor(2.0).requires_grad_()).shape == ()
    assert fingerprint(torch.zeros(2)) != fingerprint(-torch.zeros(2))


FORWARD, TABLE = ("x", "table", "y", "flag"), torch.arange(3.0)
CONSTANTS = {"table": fingerprint(TABLE), "flag": None}


@pytest.mark.parametrize(
    ("args", "kwargs", "positional", "rest"),
    [
        ((1, 2), {}, (1, 2), {}),
        ((1,), {"y": 2}, (1,), {"y": 2}),
        ((), {"x": 1, "y": 2}, (), {"x": 1, "y": 2}),
        ((1, TABLE, 2, "any"), {}, (1, 2), {}),
        ((1, TABLE, 2), {}, (1, 2), {}),
        ((1, TABLE), {"y": 2}, (1,), {"y": 2}),
        ((1, 2), {"table": TABLE, "flag": 7}, (1, 2), {}),
        ((), {"x": 1, "table": TABLE, "y": 2}, (), {"x": 1, "y": 2}),
        ((1, 2, 3, 4, 5), {}, (1, 2, 3, 4, 5), {}),
        ((1, 2), {"z": 3}, (1, 2), {"z": 3}),
    ],
)
def test_constants_are_taken_out_of_a_call(args: Any, kwargs: Any, positional: Any, rest: Any) -> None:
    assert without_constants(FORWARD, CONSTANTS, args, kwargs) == (positional, rest)


@pytest.mark.parametrize("wrong", [TABLE + 1, TABLE.double(), [0.0, 1.0, 2.0], None], ids=str)
def test_a_constant_of_another_value_is_refused(wrong: Any) -> None:
    for args, kwargs in (((1, wrong, 2), {}), ((1, 2), {"table": wrong})):
        with pytest.raises(InputError, match="input 'table' was declared constant, and its value has changed since"):
            without_constants(FORWARD, CONSTANTS, args, kwargs)


NAN = float("nan")


class NoEquality:
    def __eq__(self, other: object) -> Any:
        return "perhaps"

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, False),
        (1, True, False),
        ("a", "a", True),
        (None, None, True),
        (None, 0, False),
        (NAN, float("nan"), True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (np.float32("nan"), np.float32("nan"), True),
        (complex(NAN, 1), complex(NAN, 1), True),
        (np.array([1.0, NAN]), np.array([1.0, NAN]), True),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), False),
        (np.array([1]), np.array([1.0]), False),
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array(["a"]), np.array(["a"]), True),
        (np.array([1]), np.array([1, 1]), False),
        ((1, 2), (1, 2), True),
        ([1], (1,), False),
        (np.int64(3), np.int64(3), True),
        (NoEquality(), NoEquality(), False),
    ],
)
def test_which_constants_are_the_same(a: Any, b: Any, same: bool) -> None:
    assert same_constant(a, b) is same
    assert same_constant(a, a)
