"""Results of a program in exact arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from recfx.ir.reference_run import Reference
from recfx.testing import GraphBuilder

_aten = torch.ops.aten
_KEYS = 5


def _attention(mask: torch.Tensor, query: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """The float64 result of attention of three rows over themselves under a mask."""
    shape = tuple(mask.shape[1:])
    builder = GraphBuilder({"x": ("batch", 1, _KEYS, 4), "mask": (("batch", *shape), mask.dtype)})
    x = builder.inputs["x"]
    result = builder.call(
        _aten.scaled_dot_product_attention.default, x, x, x, attn_mask=builder.inputs["mask"], scale=scale
    )
    reference = Reference(builder.build(result), (query, mask))
    (found,) = reference()
    assert reference.refusal is None
    assert isinstance(found, torch.Tensor)
    return found


def _hidden() -> torch.Tensor:
    """The mask of visible keys: the first row sees all keys, the second some keys, the third no key."""
    seen = torch.ones(3, 1, _KEYS, _KEYS, dtype=torch.bool)
    seen[1, :, :, ::2] = False
    seen[2] = False
    return seen


@pytest.mark.parametrize("scale", [None, 0.25])
def test_masks_of_booleans_and_of_numbers_hide_the_same_keys(scale: float | None) -> None:
    query, seen = torch.randn(3, 1, _KEYS, 4), _hidden()
    numbers = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    by_torch = torch.nn.functional.scaled_dot_product_attention(*[query.double()] * 3, seen, scale=scale)
    for mask in (seen, numbers):
        found = _attention(mask, query, scale=scale)
        assert found.dtype is torch.float64
        assert torch.allclose(found, by_torch, rtol=1e-12, atol=1e-14)
        assert not found[2].any(), "attention over nothing is 0"


def test_scores_of_nan_stay_nan() -> None:
    query = torch.randn(3, 1, _KEYS, 4)
    query[0, 0, 0] = float("nan")
    found = _attention(torch.ones_like(_hidden()), query)
    assert found[0].isnan().all()
    assert not found[1:].isnan().any()


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_hidden_keys_are_not_read(fill: float) -> None:
    """The last key holds NaN: rows that see it become NaN, and the other rows are the same as without it."""
    query, seen = torch.randn(3, 1, _KEYS, 4), torch.ones(3, 1, _KEYS, _KEYS, dtype=torch.bool).tril()
    clean = _attention(seen, query)
    query[:, :, -1] = fill
    found = _attention(seen, query)
    assert torch.equal(found[:, :, :-1], clean[:, :, :-1])
    assert found[:, :, -1].isnan().all()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_its_precision_far_below_zero(approximate: str) -> None:
    """-12 * Phi(-12) by the expansion of the normal distribution's tail."""
    builder = GraphBuilder({"x": ("batch", 1)})
    program = builder.build(builder.call(_aten.gelu.default, builder.inputs["x"], approximate=approximate))
    x = torch.tensor([[-12.0], [0.5], [float("inf")], [float("-inf")], [float("nan")]])
    (found,) = Reference(program, (x,))()
    if approximate == "none":
        tail = math.exp(-72) / math.sqrt(2 * math.pi) * (1 - 1 / 144 + 3 / 144**2 - 15 / 144**3)
        assert float(found[0]) == pytest.approx(-tail, rel=1e-4)
    assert float(found[0]) < 0
    assert float(found[1]) == pytest.approx(float(torch.nn.functional.gelu(x[1].double(), approximate=approximate)))
    assert found[3:].isnan().all()


@pytest.mark.parametrize(
    ("message", "refusal"), [("no float64\nmore", "NotImplementedError: no float64"), ("", "NotImplementedError: ")]
)
def test_a_refusal_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, message: str, refusal: str) -> None:
    """In these cases the reference is the program in its own types."""

    def refuse(*given: object) -> None:
        raise NotImplementedError(message)

    builder = GraphBuilder({"x": ("batch", 4)})
    program = builder.build(builder.call(_aten.tanh.default, builder.inputs["x"]))
    monkeypatch.setattr("recfx.ir.reference_run.run_in_float64", refuse)
    leaf = torch.randn(3, 4)
    reference = Reference(program, (leaf,))
    assert reference.refusal is None
    (found,) = reference()
    assert reference.refusal == refusal
    assert torch.equal(found, leaf.tanh())
    assert float(reference.spread(0).max()) < 1e-6
