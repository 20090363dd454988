"""Frozen weights of a module: operations that do not change them pass; all others are errors with a next step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from recfx.driver.frozen_weights import FrozenWeights
from recfx.errors import InputError


def frozen() -> FrozenWeights:
    made = FrozenWeights()
    made.hold_weights(
        {
            "table.weight": nn.Parameter(torch.randn(4, 2)),
            "scale": torch.tensor([1.0, float("nan")]),
            "ids": torch.arange(3),
        }
    )
    return made


def test_what_changes_nothing_passes() -> None:
    made = frozen()
    before = {name: t.data_ptr() for name, t in made.state_dict().items()}
    assert list(before) == ["scale", "ids", "table.weight"]
    assert made.eval().train(False).to("cpu").cpu().float().requires_grad_(False).to(torch.float32) is made
    made.load_state_dict(made.state_dict())
    made.load_state_dict({"scale": torch.tensor([1.0, float("nan")])}, strict=False)
    assert {name: t.data_ptr() for name, t in made.state_dict().items()} == before


CHANGES: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "train": (lambda m: m.train(), "cannot be trained"),
    "requires_grad_": (lambda m: m.requires_grad_(), "no gradients"),
    "half": (lambda m: m.half(), "float32 would become torch.float16"),
    "double": (lambda m: m.double(), "torch.float64"),
    "bfloat16": (lambda m: m.to(torch.bfloat16), "torch.bfloat16"),
    "meta": (lambda m: m.to("meta"), "stays on the device"),
    "to_empty": (lambda m: m.to_empty(device="meta"), "stays on the device"),
    "hook": (lambda m: m.register_forward_hook(lambda *a: None), "runs no hooks"),
    "hook before": (lambda m: m.register_forward_pre_hook(lambda *a: None), "runs no hooks"),
    "hook of gradients": (lambda m: m.register_full_backward_hook(lambda *a: None), "runs no hooks"),
    "hook before gradients": (lambda m: m.register_full_backward_pre_hook(lambda *a: None), "runs no hooks"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_refused_with_a_next_step(name: str, inside: bool) -> None:
    change, message = CHANGES[name]
    made = frozen()
    if inside and ("hook" in name or name == "requires_grad_"):  # which a larger module does not pass on
        return
    with pytest.raises(InputError, match=message) as caught:
        change(nn.Sequential(made) if inside else made)
    assert caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can move tensors to a GPU here")
def test_a_device_that_torch_does_not_have() -> None:
    with pytest.raises(InputError, match="stays on the device"):
        frozen().to("cuda")


def test_other_weights_are_not_loaded() -> None:
    made = frozen()
    before = made.state_dict()["table.weight"].clone()
    for changed in (
        {**made.state_dict(), "table.weight": torch.zeros(4, 2)},
        {**made.state_dict(), "scale": torch.ones(2)},
        {**made.state_dict(), "ids": torch.arange(3).int()},
        {**made.state_dict(), "more": torch.ones(2)},
        {"scale": made.state_dict()["scale"]},
    ):
        with pytest.raises(InputError, match=r"refresh\(model\)"):
            made.load_state_dict(changed)
        with pytest.raises(RuntimeError, match=r"Sequential"):
            nn.Sequential(made).load_state_dict({f"0.{name}": tensor for name, tensor in changed.items()})
    assert torch.equal(made.state_dict()["table.weight"], before)


def test_new_weights_take_the_place_of_the_former() -> None:
    made = frozen()
    made.hold_weights({"other": torch.ones(1)})
    assert list(made.state_dict()) == ["other"]
