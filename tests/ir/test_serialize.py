"""Tensors are stored once per piece of memory, under one name, with the elements of the view only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from recfx.ir.serialize import TensorStore

BASE = torch.arange(24.0).view(4, 6)

OTHER_VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "another shape": lambda x: x.view(6, 4),
    "other strides": lambda x: x.view(6, 4).t(),
    "another offset": lambda x: x[1:],
    "fewer rows": lambda x: x[:2],
    "fewer columns": lambda x: x[:, :3],
    "another dtype": lambda x: x.view(torch.int32),
}


def test_one_piece_of_memory_has_one_name() -> None:
    store = TensorStore()
    parameter = torch.nn.Parameter(BASE.clone())
    assert store.add("a", parameter) == "a"
    assert store.add("b", parameter.data) == "a"
    assert store.add("c", BASE.clone()) == "c"
    assert list(store.tensors) == ["a", "c"]
    assert not store.tensors["a"].requires_grad


@pytest.mark.parametrize("name", OTHER_VIEWS)
def test_another_view_is_stored_on_its_own(name: str) -> None:
    store = TensorStore()
    base = BASE.clone()
    view = OTHER_VIEWS[name](base)
    assert [store.add("base", base), store.add("view", view)] == ["base", "view"]
    stored = store.tensors["view"]
    assert torch.equal(stored, view)
    assert stored.dtype == view.dtype
    assert stored.is_contiguous()
    assert stored.untyped_storage().nbytes() == view.numel() * view.element_size()


def test_names_in_use_are_extended() -> None:
    store = TensorStore()
    assert [store.add("a", torch.full((2,), float(i))) for i in range(3)] == ["a", "a_", "a__"]
    assert [float(tensor[0]) for tensor in store.tensors.values()] == [0.0, 1.0, 2.0]


def test_empty_tensors_keep_their_names() -> None:
    """Empty tensors have no memory, so that nothing ties one to another."""
    store = TensorStore()
    assert [store.add(name, torch.zeros(0, 3)) for name in "abc"] == ["a", "b", "c"]


def test_views_of_memory_that_the_caller_frees_are_not_confused() -> None:
    store = TensorStore()
    names = [store.add(f"t{i}", torch.full((1000, 2), float(i))[:, 0]) for i in range(30)]
    assert names == [f"t{i}" for i in range(30)]
    assert [float(store.tensors[name][0]) for name in names] == list(range(30))
