"""Bags of ids as plain tensors: found among the inputs, drawn whole, free in number."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from bag_models import FORMS, generator, lengths_of
from native_kit import needs_kernels
from torch.utils import _pytree as pytree

import recfx
from recfx.capture.find_bags import find_bags
from recfx.ir.bags import Form


@functools.cache
def compiled(form: str, example: str) -> Any:
    """A model of a form and its compiled form, captured with one of the examples."""
    make, draw = FORMS[form]
    torch.manual_seed(0)
    model = make().eval()
    lengths = EXAMPLES[example]()
    return model, recfx.optimize(model, example_inputs=draw(lengths, generator(1)), measure=False), draw


EXAMPLES = {
    "bags of any length": lambda: lengths_of(6, 4, generator(0)),
    "one id a bag": lambda: torch.ones(3, 5, dtype=torch.int64),
    "one bag": lambda: lengths_of(1, 4, generator(3)) + 1,
}
CALLS = {
    "one bag": torch.tensor([[3], [1], [2]]),
    "one empty bag": torch.zeros(3, 1, dtype=torch.int64),
    "empty bags": torch.zeros(3, 4, dtype=torch.int64),
    "long bags": torch.tensor([[300, 0, 1], [0, 200, 0], [2, 2, 100]]),
    "one id a bag": torch.ones(3, 9, dtype=torch.int64),
    "many bags": lengths_of(33, 5, generator(2)),
}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("form", FORMS)
def test_the_compiled_model_agrees_for_every_form_of_bags(form: str, example: str) -> None:
    model, fast, draw = compiled(form, example)
    assert not fast.report.kept_eager
    for name, lengths in CALLS.items():
        inputs = draw(lengths, generator(4))
        with torch.no_grad():
            wanted = model(*inputs)
        assert torch.allclose(fast(*inputs), wanted, atol=1e-5), name


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_is_the_number_of_bags_and_ids_are_free(form: str) -> None:
    _, fast, draw = compiled(form, "one id a bag")
    program = fast.program
    inputs = draw(lengths_of(4, 3, generator(5)), generator(6))
    sizes = program.signature.check(pytree.tree_leaves(inputs))
    assert sizes["batch"] == 4
    assert program.bags
    for bags in program.bags:
        for stream in bags.streams:
            for leaf in stream.leaves:
                size = program.signature.leaves[leaf].shape[0 if stream.row is None else 1]
                assert isinstance(size, str)
                assert size != "batch"


WRONG_BOUNDS = {
    "falling": lambda bounds: bounds.flip(-1),
    "beyond the ids": lambda bounds: torch.cat([bounds[..., :-1], bounds[..., -1:] + 1000], -1),
    "negative": lambda bounds: torch.cat([bounds[..., :1], bounds[..., 1:2] - 100, bounds[..., 2:]], -1),
    "2^40": lambda bounds: torch.full_like(bounds, 2**40) if bounds.dtype is torch.int64 else bounds - 7,
    "floats": lambda bounds: bounds.float(),
}


@pytest.mark.parametrize("wrong", WRONG_BOUNDS)
@pytest.mark.parametrize(
    "form", ["offsets", "include_last_offset", "lists", "a matrix of offsets", "ids and offsets alone"]
)
def test_wrong_bounds_are_an_input_error(form: str, wrong: str) -> None:
    _, fast, draw = compiled(form, "bags of any length")
    leaves, spec = pytree.tree_flatten(draw(lengths_of(5, 3, generator(8)) + 1, generator(9)))
    bounds = fast.program.bags[0].bounds
    leaves[bounds] = WRONG_BOUNDS[wrong](leaves[bounds])
    with pytest.raises(recfx.InputError):
        fast(*pytree.tree_unflatten(leaves, spec))


class PlainColumns(torch.nn.Module):
    """Columns whose values could be offsets or lengths, but are not."""

    def forward(self, position, count, value):
        return position * value + count


def test_columns_that_merely_look_like_bounds_stay_columns() -> None:
    inputs = (torch.arange(4), torch.ones(4, dtype=torch.int64), torch.randn(4, generator=generator(0)))
    program = recfx.optimize(PlainColumns().eval(), example_inputs=inputs, measure=False).program
    assert program.bags == ()
    assert [leaf.shape for leaf in program.signature.leaves] == [("batch",)] * 3


class RunningSumOfRows(torch.nn.Module):
    """A running sum, or a repetition, of looked-up rows, and another input: rows are not bounds, regardless of the sum
    of the ids."""

    def __init__(self, repeated: bool) -> None:
        super().__init__()
        self.table, self.repeated = torch.nn.Embedding(3, 2), repeated

    def forward(self, dense, ids):
        rows = self.table(ids)
        return dense * (rows.repeat_interleave(3, 1) if self.repeated else rows.cumsum(1).sum(1, keepdim=True))


@pytest.mark.parametrize("repeated", [False, True])
def test_ids_that_add_up_to_the_batch_are_not_lengths(repeated: bool) -> None:
    inputs = (torch.rand(4, 6), torch.tensor([1, 0, 2, 1]))
    assert find_bags(lambda leaves: RunningSumOfRows(repeated)(*leaves), inputs) == []


class WeightsUnread(torch.nn.Module):
    """One weight for each id, an input that the model does not read, and numbers whose running sums weight other
    ids."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(9, 2, mode="sum", include_last_offset=True)

    def forward(self, weights, ids, offsets, dense, columns):
        sums = dense.cumsum(1)
        weighted = torch.nn.functional.embedding_bag(columns, self.bag.weight, mode="sum", per_sample_weights=sums)
        return self.bag(ids, offsets), weighted


def test_inputs_that_are_not_read_or_hold_no_integers_do_not_tell_the_batch() -> None:
    """Four ids in three bags: with the batch of the unread weights, the four bounds would be those of four bags."""
    ids, offsets = torch.full((4,), 7), torch.tensor([0, 1, 2, 4])
    inputs = (torch.rand(4), ids, offsets, torch.rand(3, 3), torch.randint(9, (3, 3)))
    bags = find_bags(lambda leaves: WeightsUnread()(*leaves), inputs)
    assert [(found.bounds, found.form, found.runs) for found in bags] == [(2, Form.SPLITS, 1)]


class KeysInOneOutput(torch.nn.Module):
    """The bags of three keys, one after another, as one output with three rows for each row of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(9, 2, mode="sum")

    def forward(self, ids, offsets, dense):
        return self.bag(ids, offsets), dense * 2


def test_an_input_that_is_read_tells_the_batch_before_an_output() -> None:
    torch.manual_seed(0)
    model = KeysInOneOutput().eval()

    def call(batch: int) -> tuple[torch.Tensor, ...]:
        lengths = lengths_of(batch, 4, generator(batch)).flatten()
        ids = torch.randint(9, (int(lengths.sum()),), generator=generator(batch))
        return ids, lengths.cumsum(0) - lengths, torch.randn(batch, 3, generator=generator(batch))

    (bags,) = find_bags(lambda leaves: model(*leaves), call(5))
    assert (bags.bounds, bags.form, bags.runs) == (1, Form.OFFSETS, 3)
    fast = recfx.optimize(model, example_inputs=call(5), measure=False)
    for batch in (1, 3, 8):
        for found, wanted in zip(fast(*call(batch)), model(*call(batch)), strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_bag_alone_becomes_a_grouped_lookup() -> None:
    _, fast, _ = compiled("ids and offsets alone", "bags of any length")
    assert torch.ops.recfx.grouped_lookup.default in {node.target for node in fast.program.graph.nodes}


@needs_kernels
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_bags_is_read_by_kernels(form: str) -> None:
    _, fast, _ = compiled(form, "bags of any length")
    assert set(fast.report.backend) - {"eager"} == {"native"}, "operators without a kernel run in eager regions"
    left = {name for name, _ in fast.report.left_to_torch}
    allowed = TORCH_LOOKUPS.get(form, set())
    assert {name for name in left if any(word in name for word in LOOKUPS)} <= allowed, fast.report.left_to_torch


#: Parts of the names of operators that look rows up or pool them.
LOOKUPS = ("embedding", "lookup", "index_add", "segment_reduce", "index_select")

#: Form -> the lookups in it that torch runs: bags of several keys a row, and rows that are pooled by their numbers.
TORCH_LOOKUPS = {
    "keys one after another": {"recfx.grouped_lookup.default"},
    "a matrix of lengths": {"recfx.grouped_lookup.default"},
    "lengths with a row for each row": {"recfx.grouped_lookup.default"},
    "repeat_interleave": {"aten.embedding.default", "aten.index_add.default"},
    "row splits": {"aten.embedding.default", "aten.index_add.default"},
    "segment_reduce": {"aten.embedding.default", "aten.segment_reduce.default"},
}
