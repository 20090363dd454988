"""Every model exports with a dynamic batch, and then gives the same results, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from recfx.zoo import ZooModel


@pytest.fixture(autouse=True)
def _quiet_gru() -> object:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attribute.*_flat_weights")
        yield


@pytest.mark.slow
def test_export_agrees_with_eager_at_every_batch(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case)
    example = model.example_inputs(6)
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(model, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False)
    (declared,) = exported.range_constraints.values()
    assert (declared.lower, declared.upper) == (1, 4096)
    runnable = exported.module()
    with torch.no_grad():
        for size in (1, 2, 7, 64):
            inputs = model.example_inputs(size, zipf=1.1, seed=size)
            expected = model(*inputs)
            assert torch.equal(runnable(*inputs), expected)
            assert size == 1 or expected.unique().numel() > 1  # otherwise the comparison would prove nothing


def test_rows_do_not_depend_on_the_batch(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case)
    inputs = model.example_inputs(9, seed=3)
    with torch.no_grad():
        together = model(*inputs)
        alone = torch.cat([model(*(part[row : row + 1] for part in inputs)) for row in range(9)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
