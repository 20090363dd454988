"""The operator that computes offsets from lengths, in place of three operators of torch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function

from recfx.capture import capture
from recfx.runtime.complete_sums import complete_sums, lengths_of_offsets
from recfx.runtime.flat import flat_function, flat_source


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), max_size=40), st.sampled_from([1, 2, 3]))
def test_sums_are_those_of_torch(lengths: list[int], step: int) -> None:
    vector = torch.tensor(lengths, dtype=torch.int64)[::step]
    want = torch.cat([vector.new_zeros(1), torch.cumsum(vector, 0)])
    assert torch.equal(complete_sums(vector), want)
    assert complete_sums(vector).dtype is torch.int64


FORMS = {
    "new_zeros": (True, lambda n: torch.cat([n.new_zeros(1), torch.cumsum(n, 0)])),
    "zeros": (True, lambda n: torch.cat([torch.zeros(1, dtype=torch.int64), n.cumsum(-1)])),
    "two zeros": (False, lambda n: torch.cat([n.new_zeros(2), torch.cumsum(n, 0)])),
    "the zero behind": (False, lambda n: torch.cat([torch.cumsum(n, 0), n.new_zeros(1)])),
    "a one": (False, lambda n: torch.cat([n.new_ones(1), torch.cumsum(n, 0)])),
    "products": (False, lambda n: torch.cat([n.new_zeros(1), torch.cumprod(n, 0)])),
    "a matrix": (False, lambda n: torch.cat([n.new_zeros(len(n), 1), torch.cumsum(n.unsqueeze(1), 1)], 1)),
    "sums that are read again": (
        False,
        lambda n: (lambda sums: torch.cat([n.new_zeros(1), sums]) + sums.sum())(n.cumsum(0)),
    ),
}


def test_what_is_recognised_and_what_it_gives() -> None:
    for name, (recognised, body) in FORMS.items():
        model = Function(lambda m, n, body=body: body(n) * 2)
        lengths = torch.tensor([3, 0, 2, 5])
        program = capture(model, (lengths,))
        found = [node for node in program.graph.nodes if lengths_of_offsets(node) is not None]
        source = flat_source(program)[0]
        assert ("complete_sums" in source) == bool(found)
        assert bool(found) == recognised, name
        for part in (lengths, lengths[:1], lengths[:2]):
            assert torch.equal(flat_function(program)(part)[0], model(part)), name


def test_float_and_narrow_lengths_stay_with_torch() -> None:
    for lengths in (torch.rand(4), torch.tensor([1, 2], dtype=torch.int32)):
        program = capture(
            Function(lambda m, n: torch.cat([n.new_zeros(1), torch.cumsum(n, 0).to(n.dtype)])), (lengths,)
        )
        assert "complete_sums" not in flat_source(program)[0]
