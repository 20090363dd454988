"""Operators that read memory by strides of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import recfx
from recfx.errors import CaptureError, InputError

Function = Callable[[torch.Tensor], torch.Tensor]

#: Of computed tensors [B, 3].
COMPUTED: dict[str, Function] = {
    "all of it": lambda x: (x * 2 + 1).as_strided((x.shape[0], 2), (3, 1)) + 1,
    "with an offset": lambda x: (x * 2 + 1).as_strided((x.shape[0], 2), (3, 1), 1) + 1,
    "of a view": lambda x: (x * 2 + 1)[:, 1:].as_strided((x.shape[0], 2), (3, 1)) + 1,
    "of its transpose": lambda x: (x * 2 + 1).t().as_strided((x.shape[0], 2), (3, 1)) + 1,
    "overlapping windows": lambda x: torch.as_strided(x * 2, (x.shape[0], 2, 2), (3, 1, 1)).sum(2),
    "copied": lambda x: torch.as_strided_copy(x * 2, (x.shape[0], 2), (3, 1)) + 1,
}

WIDE = torch.randn(8, 5)
#: Inputs [4, 3] whose strides are not those of the example.
LAYOUTS = {
    "turned": torch.randn(3, 4).t(),
    "columns of a matrix": WIDE[:4, 1:4],
    "spread": torch.randn(1, 3).expand(4, 3),
}


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("target", ["eager", "cpu"])
@pytest.mark.parametrize("name", COMPUTED)
def test_computed_tensors_read_by_strides(name: str, target: str) -> None:
    model = Model(COMPUTED[name]).eval()
    fast = recfx.optimize(model, target, example_inputs=torch.randn(4, 3), measure=False)
    for x in (torch.randn(1, 3), torch.randn(5, 3), torch.randn(8, 3)[2:6]):
        torch.testing.assert_close(fast(x), model(x))
    for x in LAYOUTS.values():
        with pytest.raises(InputError, match="expected a contiguous tensor"):
            fast(x)


def test_saved_models_still_ask_for_contiguous_inputs(tmp_path: Path) -> None:
    model = Model(COMPUTED["of a view"]).eval()
    recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False).save(tmp_path / "model")
    fast = recfx.load(tmp_path / "model")
    x = torch.randn(6, 3)
    torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(InputError, match="expected a contiguous tensor"):
        fast(LAYOUTS["turned"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_read_by_strides_are_read_as_in_eager_mode(layout: str) -> None:
    """The caller decides the content of an input's memory."""
    model = Model(lambda x: x.as_strided((2, 2), (1, 1)) * 2 + 1).eval()
    fast = recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False)
    torch.testing.assert_close(fast(LAYOUTS[layout]), model(LAYOUTS[layout]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.t().clone(memory_format=torch.preserve_format).as_strided((2, 2), (1, 1)),
        lambda x: torch.as_strided_scatter(x * 2, torch.ones(2), (2,), (1,)),
    ],
)
def test_other_layouts_are_refused(function: Function) -> None:
    with pytest.raises(CaptureError, match="as_strided"):
        recfx.optimize(Model(function).eval(), example_inputs=torch.randn(4, 3), measure=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_models_take_inputs_of_any_strides(layout: str) -> None:
    model = Model(lambda x: (x * 2).flatten(1).t().reshape(-1) + 1).eval()
    fast = recfx.optimize(model, example_inputs=torch.randn(4, 3), measure=False)
    torch.testing.assert_close(fast(LAYOUTS[layout]), model(LAYOUTS[layout]))
