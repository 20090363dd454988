"""The batch of example inputs of every kind, examples of one row, and the dimensions that are dynamic."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.bags import Bags, Form, Stream
from recfx.ir.shapes import (
    BATCH,
    batch_size,
    evaluate_rows,
    in_export_form,
    infer_dynamic_shapes,
    positions,
    sizes_of,
    widen_batch,
)

IDS = torch.arange(5)
#: ids [5] and offsets [B] of one bag a row
OFFSETS = Bags(bounds=1, form=Form.OFFSETS, runs=1, streams=(Stream((0,)),))


def rows(count: int, *more: int) -> torch.Tensor:
    return torch.arange(count * max(1, sum(more))).reshape(count, *more) if more else torch.arange(count)


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(7, 3, 7), ("batch", 3, 3), ("61*batch", 2, 122), ("batch + 1", 4, 5), ("ids0", 3, 0), ("batch*ids0", 3, 0)],
)
def test_the_value_of_a_size(size: int | str, count: int, expected: int) -> None:
    assert evaluate_rows(size, count) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([rows(3, 2), rows(4)], 3),
        ([torch.tensor(9.0), rows(4)], 4),
        ([7, None, "name", True, 2.5, {"x": rows(6, 1)}], 6),
        ([{"a": (torch.tensor(1), [rows(2)])}], 2),
        ([rows(0, 3)], 0),
        ([7, torch.tensor(1.0)], None),
        ([], None),
    ],
)
def test_the_first_tensor_with_dimensions_determines_the_batch(values: list[Any], expected: int | None) -> None:
    assert batch_size(values) == expected


def test_ids_of_bags_do_not_determine_the_batch() -> None:
    assert batch_size([IDS, torch.tensor([0, 2])]) == 5
    assert batch_size([IDS, torch.tensor([0, 2])], [OFFSETS]) == 2


class Pair(NamedTuple):
    """Two inputs."""

    first: Any
    second: Any


class _Parts:
    """A container that torch's pytree learns to take apart."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts


pytree.register_pytree_node(_Parts, lambda held: (held.parts, None), lambda parts, _: _Parts(list(parts)))

#: Values of an example of one row that have no batch dimension, which stay as they are.
WITHOUT_A_BATCH = [7, 1, True, None, "name", 2.5, torch.tensor(3.0), rows(4, 1), rows(2)]


@pytest.mark.parametrize("other", WITHOUT_A_BATCH, ids=lambda value: f"{type(value).__name__} {value}"[:30])
@pytest.mark.parametrize(
    "nest", [lambda x: x, lambda x: {"x": [x]}, lambda x: Pair(x, (x,))], ids=["plain", "dict", "tuple"]
)
def test_the_row_of_an_example_is_repeated_and_other_values_stay(other: Any, nest: Any) -> None:
    one = rows(1, 3)
    found = widen_batch([one, nest(other), nest(one)])
    assert torch.equal(found[0], torch.cat([one, one]))
    assert [leaf is other for leaf in pytree.tree_leaves(found[1])] == [True] * len(pytree.tree_leaves(nest(other)))
    assert all(torch.equal(leaf, torch.cat([one, one])) for leaf in pytree.tree_leaves(found[2]))
    assert type(found[1]) is type(nest(other))


@pytest.mark.parametrize(
    "values", [[rows(2, 3), rows(1)], [rows(3)], [7], []], ids=["two", "three", "no tensor", "empty"]
)
def test_an_example_of_other_than_one_row_stays(values: list[Any]) -> None:
    assert [a is b for a, b in zip(widen_batch(values), values, strict=True)] == [True] * len(values)


def test_a_bag_is_repeated_with_its_ids() -> None:
    ids, offsets, dense = widen_batch([IDS, torch.tensor([0]), rows(1, 2)], [OFFSETS])
    assert torch.equal(ids, torch.cat([IDS, IDS]))
    assert offsets.tolist() == [0, 5]
    assert dense.shape == (2, 2)


def test_one_id_in_one_of_two_bags_is_not_repeated() -> None:
    """The ids have one row, and the batch is two."""
    values = [rows(1), torch.tensor([0, 1])]
    assert all(a is b for a, b in zip(widen_batch(values, [OFFSETS]), values, strict=True))


def test_an_empty_example_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        widen_batch([rows(0, 3)])


def test_tensors_with_the_rows_of_the_batch_are_dynamic() -> None:
    values = {
        "x": rows(3, 2),
        "pair": Pair(rows(4), rows(3)),
        "parts": _Parts([rows(4), rows(3)]),
        "k": 3,
        "none": None,
        "scalar": torch.tensor(3),
    }
    found = infer_dynamic_shapes(values, 8)
    (dim,) = found["x"].values()
    assert (dim.__name__, dim.min, dim.max) == (BATCH, 1, 8)
    assert found == {
        "x": {0: dim},
        "pair": Pair(None, {0: dim}),
        "parts": [None, {0: dim}],
        "k": None,
        "none": None,
        "scalar": None,
    }


def test_bags_are_dynamic_in_the_batch_and_in_the_number_of_ids() -> None:
    ids, offsets, dense = infer_dynamic_shapes([IDS, torch.tensor([0, 2]), rows(2, 5)], 8, [OFFSETS])
    assert (ids[0].__name__, offsets[0].__name__, dense[0].__name__) == ("ids0", BATCH, BATCH)


@pytest.mark.parametrize(("count", "refused"), [(4, False), (5, True)])
def test_the_largest_batch(count: int, refused: bool) -> None:
    if refused:
        with pytest.raises(InputError, match="more than max_batch=4"):
            infer_dynamic_shapes([rows(count)], 4)
    else:
        assert infer_dynamic_shapes([rows(count)], 4)[0] is not None


def test_marks_are_nested_as_torch_export_expects() -> None:
    spec = pytree.tree_structure((1, [2, {"a": _Parts([3, 4])}]))
    assert in_export_form(spec, iter("pqrs")) == ("p", ["q", {"a": ["r", "s"]}])


def test_the_positions_of_plain_parts_are_their_own() -> None:
    assert positions([rows(2), 7, None]) == [0, 1, 2]


def test_sizes_are_named() -> None:
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        _Doubled(), (rows(3, 2), rows(5)), dynamic_shapes=({0: batch}, {0: torch.export.Dim("n")})
    )
    names: dict[str, str] = {}
    x, y, out = (node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" or "cat" in node.name)
    names[str(x.shape[0].node.expr)] = "batch"
    assert sizes_of(x, names) == ("batch", 2)
    assert sizes_of(y, names) == ("dim1",)
    assert sizes_of(out, names) == ("2*batch", 2)


class _Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([x, x]), y + 1
