"""Bounds at plus and minus the largest magnitude of a row. `finetuning/test_fake_quantize.py` holds learned shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from learn_kit import blocks

from recfx.errors import InputError
from recfx.formats.per_channel import quantize_per_channel
from recfx.learn.bounds.symmetric_row import SymmetricRowBounds
from recfx.learn.estimators import StraightThrough
from recfx.learn.quantizer import SymmetricQuantizer


@given(blocks())
def test_rounding_is_that_of_int8_weights(x: torch.Tensor) -> None:
    quantizer = SymmetricQuantizer(8, SymmetricRowBounds(), StraightThrough())
    codes, scale = quantize_per_channel(x)
    # Values in the middle between two codes may round to either of them.
    away = (quantizer(x) - codes * scale[:, None]).abs()
    assert bool((away <= scale[:, None] * 1.001).all())
    assert float((away > scale[:, None] * 1e-3).float().mean()) < 0.05


def test_the_codes_are_from_minus_127_to_127() -> None:
    quantizer = SymmetricQuantizer(8, SymmetricRowBounds(), StraightThrough())
    assert quantizer.steps == 254
    assert quantizer.codes(torch.tensor([[-2.0, 0.0, 2.0]])).tolist() == [[0, 127, 254]]


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"shares of 0 rows"):
        SymmetricRowBounds(0)
