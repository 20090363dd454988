"""The entries of one key among those of all keys: the recognised cuts, and the native results of the lookups that read
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from lookup_cases import features, tables
from native_kit import LEVELS, needs_kernels, partition
from pass_cases import Function, run
from torch.nn import functional as F

from recfx.capture import capture
from recfx.ir import Program
from recfx.ops.lookup import JAGGED, grouped_lookup
from recfx.passes.lookups.key_parts import key_part
from recfx.runtime.flat import flat_function

aten = torch.ops.aten


def starts(lengths: torch.Tensor) -> torch.Tensor:
    sums = torch.cumsum(lengths, -1)
    return torch.cat([sums.new_zeros(1), sums], -1)


def cut_by_split(values: torch.Tensor, sizes: list[int], key: int) -> torch.Tensor:
    return torch.split(values, sizes)[key]


def cut_by_start(values: torch.Tensor, sizes: list[int], key: int) -> torch.Tensor:
    begin = sum(sizes[:key])
    torch._check(begin + sizes[key] <= values.shape[0])
    return torch.narrow(values, 0, begin, sizes[key])


#: A failing example is not shrunk: an example takes a second, and shrinking takes minutes.
FOUND = (Phase.explicit, Phase.reuse, Phase.generate)
CUTS = {"split": cut_by_split, "narrow": cut_by_start}


def bags_of(keys: int, read: int, cut: Callable[..., Any], order: list[int], weighted: bool) -> Callable[..., Any]:
    """The bags of one key. `order` is the key whose number of entries is used for each key: its own, or another."""

    def body(m: Any, lengths: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> Any:
        by_key = lengths.view(keys, -1)
        counts = by_key.sum(1)
        sizes = [counts[k].item() for k in order]
        for size in sizes:
            torch._check(size >= 0)
        ids, factors = cut(values, sizes, read), cut(weights, sizes, read) if weighted else None
        own = starts(by_key.select(0, read))
        return F.embedding_bag(ids, m.a.weight, own, mode="sum", include_last_offset=True, per_sample_weights=factors)

    return body


def inputs_of(lengths: list[int], seed: int) -> tuple[torch.Tensor, ...]:
    rng, total = torch.Generator().manual_seed(seed), sum(lengths)
    return torch.tensor(lengths), torch.randint(0, 9, (total,), generator=rng), torch.rand(total, generator=rng)


def program_of(body: Callable[..., Any], keys: int) -> tuple[Function, Program]:
    batch, count = torch.export.Dim("batch", min=1, max=99), torch.export.Dim("values", min=0)
    model = Function(body, **tables())
    shapes = {"inputs": ({0: keys * batch if keys > 1 else batch}, {0: count}, {0: count})}
    example = inputs_of([2, 0, 1, 3] * keys, 0)
    return model, capture(model, example, dynamic_shapes=shapes, check=False)


@needs_kernels
@settings(max_examples=5, deadline=None, phases=FOUND)
@given(st.data())
def test_the_bags_of_a_key_are_read_natively_where_they_lie(data: st.DataObject) -> None:
    keys = data.draw(st.integers(1, 4), "keys")
    read = data.draw(st.integers(0, keys - 1), "read")
    name = data.draw(st.sampled_from(sorted(CUTS)), "cut")
    # Two cuts by start are not known to have equal length.
    weighted = name == "split" and data.draw(st.booleans(), "weighted")
    model, program = program_of(bags_of(keys, read, CUTS[name], list(range(keys)), weighted), keys)
    fused = run("canonicalize,fuse-lookups", program).program
    ((feature,),) = features(fused)
    assert (feature.length, feature.segment, feature.segments) == (JAGGED, read, keys)
    batches = [data.draw(st.lists(st.integers(0, 4), min_size=rows * keys, max_size=rows * keys)) for rows in (1, 3)]
    for level in LEVELS:
        made = partition(fused, level)
        assert not any(node.target is grouped_lookup for node in made.refused), made.refused
        compiled = flat_function(made.region)
        for number, lengths in enumerate(batches):
            given_inputs = inputs_of(lengths, number)
            torch.testing.assert_close(compiled(*given_inputs)[0], model(*given_inputs))


@settings(max_examples=5, deadline=None, phases=FOUND)
@given(st.data())
def test_a_cut_by_the_sizes_of_other_keys_is_not_taken_for_a_key(data: st.DataObject) -> None:
    keys = data.draw(st.integers(2, 4), "keys")
    order = data.draw(st.permutations(range(keys)), "order")
    read = data.draw(st.integers(0, keys - 1), "read")
    name = data.draw(st.sampled_from(sorted(CUTS)), "cut")
    _, program = program_of(bags_of(keys, read, CUTS[name], order, False), keys)
    fused = run("canonicalize", program).program
    parts = [p for node in fused.graph.nodes if (p := key_part(node)) is not None]
    own = order[read] == read and sorted(order[:read]) == list(range(read))
    if name == "split":
        own = order == list(range(keys))
    assert bool(parts) == own
    assert all(part.key == read for part in parts) or name == "split"


def test_a_cut_whose_start_and_size_sum_different_lengths_is_not_taken_for_a_key() -> None:
    def body(m: Any, lengths: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> Any:
        begin = lengths.view(3, -1).sum(1)[0].item()
        size = (lengths + lengths).view(3, -1).sum(1)[1].item()
        torch._check(begin >= 0)
        torch._check(size >= 0)
        torch._check(begin + size <= values.shape[0])
        return torch.narrow(values, 0, begin, size)

    _, program = program_of(body, 3)
    cuts = list(program.graph.find_nodes(op="call_function", target=aten.narrow.default))
    assert len(cuts) == 1
    assert key_part(cuts[0]) is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_split_into_fewer_parts_than_keys_is_not_taken_for_keys(count: int) -> None:
    def body(m: Any, lengths: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> Any:
        counts = lengths.view(4, -1).sum(1)
        sizes = [counts[k].item() for k in range(count)]
        for size in sizes:
            torch._check(size >= 0)
        return torch.split(values, sizes)[0] * 2

    _, program = program_of(body, 4)
    assert not any(key_part(node) for node in run("canonicalize", program).program.graph.nodes)
