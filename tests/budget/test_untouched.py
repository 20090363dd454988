"""`Untouched` sees every change that an `evaluate` can make to a model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from recfx.budget.untouched import Untouched, require_finite
from recfx.errors import InputError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()


def trains(net: nn.Sequential) -> None:
    net[1].weight.grad = torch.ones(4, 4)
    torch.optim.SGD([net[1].weight], 0.1).step()


def writes_behind_torch(net: nn.Sequential) -> None:
    net[0].weight.data[3, 2] += 1


def replaces(net: nn.Sequential) -> None:
    net[1].bias = nn.Parameter(torch.ones(4))


def fills_statistics(net: nn.Sequential) -> None:
    net[2].running_mean.add_(1)


CHANGES: dict[str, tuple[Callable[[nn.Sequential], object], str]] = {
    "a step of training": (trains, "1.weight"),
    "a write that torch does not count": (writes_behind_torch, "0.weight"),
    "another parameter": (replaces, "1.bias"),
    "statistics": (fills_statistics, "2.running_mean"),
    "half precision": (lambda net: net.half(), "0.weight"),
    "train mode": (lambda net: net.train(), "left the model in train mode"),
    "train mode of a part": (lambda net: net[2].train(), "left 2 in train mode"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_an_error_that_names_it(change: str) -> None:
    net = model()
    state = Untouched(net)
    CHANGES[change][0](net)
    with pytest.raises(InputError, match=CHANGES[change][1]) as caught:
        state.require()
    assert caught.value.hint


def test_calls_copies_and_counters_are_no_change() -> None:
    net = model()
    net.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    state = Untouched(net)
    with torch.no_grad():
        net(torch.arange(3))
    net.calls += 1
    trains(copy.deepcopy(net))
    net.train()
    net.eval()
    state.require()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_must_be_finite(value: float) -> None:
    net = model()
    require_finite(net)
    net[0].weight.data[3, 2] = value
    with pytest.raises(InputError, match="a weight has NaN or infinities") as caught:
        require_finite(net)
    assert caught.value.where == "0.weight"
