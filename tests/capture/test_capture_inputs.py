"""Example inputs in the order of the parameters of `forward`, for every mix of positional and keyword arguments."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from recfx.capture.inputs import distinct_values, leaf_names, normalize_call, split_example
from recfx.errors import InputError


class Plain(nn.Module):
    def forward(self, a: Any, b: Any = 2, *, c: Any = 3) -> Any:
        return a


class Free(nn.Module):
    def forward(self, a: Any, *args: Any, **more: Any) -> Any:
        return a


@pytest.mark.parametrize(
    ("args", "kwargs", "names", "positional", "keyword", "defaults"),
    [
        ((1,), {}, ("a",), (1,), {}, {"b": 2, "c": 3}),
        ((1, 5), {}, ("a", "b"), (1, 5), {}, {"c": 3}),
        ((1,), {"b": 5}, ("a", "b"), (1, 5), {}, {"c": 3}),
        ((), {"a": 1, "c": 7}, ("a", "c"), (1,), {"c": 7}, {"b": 2}),
        ((), {"c": 7, "b": 5, "a": 1}, ("a", "b", "c"), (1, 5), {"c": 7}, {}),
    ],
)
def test_arguments_are_bound_to_the_parameters(
    args: Any, kwargs: Any, names: Any, positional: Any, keyword: Any, defaults: Any
) -> None:
    call = normalize_call(Plain(), args, kwargs)
    assert (call.names, call.args, call.kwargs, call.defaults) == (names, positional, keyword, defaults)
    assert call.values == (*positional, *keyword.values())
    assert call.variadic is None
    other = call.with_values([value + 10 for value in call.values])
    assert other.args == tuple(value + 10 for value in positional)
    assert other.kwargs == {name: value + 10 for name, value in keyword.items()}
    assert call.like_signature(list(names)) == dict(zip(names, names, strict=True))


def test_a_parameter_after_one_that_is_left_out_is_passed_by_name() -> None:
    class Optional(nn.Module):
        def forward(self, a: Any, b: Any = 2, c: Any = 3) -> Any:
            return a

    call = normalize_call(Optional(), (1,), {"c": 7})
    assert (call.args, call.kwargs, call.defaults) == ((1,), {"c": 7}, {"b": 2})


def test_arguments_of_any_number_have_numbered_names() -> None:
    call = normalize_call(Free(), (1, 2, 3), {"x": 4})
    assert (call.names, call.args, call.kwargs) == (("a", "args_0", "args_1", "x"), (1, 2, 3), {"x": 4})
    assert call.variadic == "args"
    assert call.like_signature(["A", "B", "C", "X"]) == {"a": "A", "args": ("B", "C"), "x": "X"}
    named = normalize_call(Free(), (1, 2), {"args_9": 4})
    assert named.like_signature(["A", "B", "X"]) == {"a": "A", "args": ("B",), "args_9": "X"}


def test_inputs_that_do_not_fit_are_refused() -> None:
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"d": 1})):
        with pytest.raises(InputError, match="do not fit the model's forward"):
            normalize_call(Plain(), args, kwargs)


def test_leaves_are_named_by_expressions() -> None:
    call = normalize_call(Plain(), ({"user": 1, "items": [2, 3]},), {"c": 4})
    assert leaf_names(call) == ["a['user']", "a['items'][0]", "a['items'][1]", "c"]


def test_a_tensor_that_is_passed_twice_is_copied_once() -> None:
    x, y = torch.arange(3.0), torch.arange(3.0)
    call = normalize_call(Free(), (x, [y, x], 1, 1), {"z": x})
    found = distinct_values(call)
    leaves = pytree.tree_leaves(found.values)
    assert leaves[0] is x
    assert leaves[1] is y
    assert len({id(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)}) == 4
    assert all(torch.equal(leaf, x) for leaf in leaves if isinstance(leaf, torch.Tensor))
    assert (found.names, found.args[2:], list(found.kwargs)) == (call.names, (1, 1), ["z"])
    once = normalize_call(Free(), (x, [y]), {})
    assert distinct_values(once) is once


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("example", "model", "split"),
    [
        (7, Plain(), ((7,), {})),
        ((7, 8), Plain(), ((7, 8), {})),
        ([7], Plain(), ((7,), {})),
        (Pair(1, 2), Plain(), ((Pair(1, 2),), {})),
        ({"a": 1, "c": 2}, Plain(), ((), {"a": 1, "c": 2})),
        ({"b": 1}, Plain(), (({"b": 1},), {})),
        ({"a": 1, "d": 2}, Plain(), (({"a": 1, "d": 2},), {})),
        ({"a": 1, 2: 3}, Plain(), (({"a": 1, 2: 3},), {})),
        ({"a": 1, "d": 2}, Free(), ((), {"a": 1, "d": 2})),
        ({"d": 2}, Free(), (({"d": 2},), {})),
    ],
)
def test_an_example_is_arguments_or_one_argument(example: Any, model: nn.Module, split: Any) -> None:
    assert split_example(example, model) == split


def test_dataclasses_inside_inputs_become_containers() -> None:
    @dataclasses.dataclass
    class Inner:
        x: torch.Tensor

    @dataclasses.dataclass
    class Outer:
        inner: Inner
        rest: list[Any]

    given = Outer(Inner(torch.zeros(2)), [Inner(torch.ones(3)), {"k": Inner(torch.ones(4))}])
    call = normalize_call(Plain(), (given,), {})
    assert [tuple(leaf.shape) for leaf in pytree.tree_leaves(call.values)] == [(2,), (3,), (4,)]
    assert normalize_call(Plain(), (given,), {}).names == ("a",)
