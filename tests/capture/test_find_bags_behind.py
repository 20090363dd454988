"""Ids behind the last offset of an embedding bag: refused in the modes in which torch counts them in the last bag."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import recfx
from recfx.errors import CaptureError, InputError
from tests.bag_models import DIM, ROWS, Offsets, draw_ids, generator, starts

LENGTHS = ([1, 2, 3, 4], [0, 5, 0, 1], [3, 2, 1, 0])
#: Modes in which torch counts ids after the last offset in the last bag.
COUNTED: dict[str, dict[str, Any]] = {
    "mean": {"mode": "mean"},
    "mean with padding": {"mode": "mean", "padding_idx": 0},
    "sum with padding": {"mode": "sum", "padding_idx": 0},
}


def call(lengths: list[int], behind: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = generator(sum(lengths) + behind)
    held = torch.tensor(lengths)
    ids = draw_ids(int(held.sum()) + behind, rng)
    return torch.randn(len(lengths), 3, generator=rng), ids, starts(held, last=True)


def compiled(**options: Any) -> tuple[torch.nn.Module, recfx.CompiledModel]:
    torch.manual_seed(0)
    model = Offsets(include_last_offset=True, **options).eval()
    return model, recfx.optimize(model, example_inputs=call(LENGTHS[0], 0), measure=False)


@pytest.mark.parametrize("mode", ["sum", "max"])
def test_ids_behind_the_bags_as_torch_takes_them(mode: str) -> None:
    """A sum leaves them out; a maximum is torch's own operator."""
    model, fast = compiled(mode=mode)
    for lengths in LENGTHS:
        for behind in (0, 1, 7):
            args = call(lengths, behind)
            torch.testing.assert_close(fast(*args), model(*args))


@pytest.mark.parametrize("options", COUNTED.values(), ids=COUNTED)
def test_counted_ids_behind_the_bags_are_an_input_error(options: dict[str, Any]) -> None:
    model, fast = compiled(**options)
    for lengths in LENGTHS:
        args = call(lengths, 0)
        torch.testing.assert_close(fast(*args), model(*args))
        for behind in (1, 7):
            dense, ids, offsets = call(lengths, behind)
            with pytest.raises(
                InputError, match=rf"offsets end at {sum(lengths)}, before the end of the {len(ids)} ids"
            ):
                fast(dense, ids, offsets)
            kept = ids[: offsets[-1]]  # the advice of the error
            torch.testing.assert_close(fast(dense, kept, offsets), model(dense, kept, offsets))


EXAMPLES = {**COUNTED, "sum": {"mode": "sum"}, "maximum": {"mode": "max"}}


@pytest.mark.parametrize("options", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_with_ids_behind_its_bags_is_refused_with_the_mend(options: dict[str, Any]) -> None:
    model = Offsets(include_last_offset=True, **options).eval()
    with pytest.raises(CaptureError, match=r"offsets end at 10, before the end of the 13 ids") as found:
        recfx.optimize(model, example_inputs=call(LENGTHS[0], 3), measure=False)
    assert "ids[: offsets[-1]]" in str(found.value)


@pytest.mark.parametrize("options", COUNTED.values(), ids=COUNTED)
def test_torch_still_counts_ids_behind_the_bags(options: dict[str, Any]) -> None:
    """The reason for the refusal. When torch mends it, the refusal goes."""
    weight, offsets = torch.rand(ROWS, DIM) + 1, torch.tensor([0, 2])
    ids = torch.tensor([3, 4, 5, 6])
    bags = [F.embedding_bag(held, weight, offsets, include_last_offset=True, **options) for held in (ids, ids[:2])]
    assert not torch.allclose(bags[0], bags[1])
