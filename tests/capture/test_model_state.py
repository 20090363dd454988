"""The user's model after `optimize`, whether it succeeds or not: attributes, containers, tensors and generators are as they were."""

from __future__ import annotations

import collections
import random
import types
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture
from recfx.capture.model_state import ModelState, unchanged
from recfx.errors import CaptureError


class Counts(nn.Module):
    """Changes all state that a forward can change without changing its outputs."""

    seen: ClassVar[collections.Counter[str]] = collections.Counter()

    def __init__(self, refuse: bool = False) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 2)
        self.calls = 0
        self.shapes: list[Any] = []
        self.by_name: dict[str, Any] = {"first": []}
        self.cache: Any = None
        self.queue: collections.deque[int] = collections.deque([1], maxlen=3)
        self.names = {"a"}
        self.log = np.zeros(3)
        self.helper = Helper()
        self.config = types.SimpleNamespace(calls=0)
        self.refuse = refuse
        self.register_buffer("hits", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.calls += 1
        type(self).seen["all"] += 1
        self.shapes.append(tuple(x.shape))
        self.by_name["first"].append(x)
        self.by_name["second"] = x
        self.cache = x
        self.queue.append(self.calls)
        self.names.add("b")
        self.log[0] += 1
        self.helper.calls += 1
        self.config.calls += 1
        self.lin.bias.grad = torch.ones(2)
        self.helper.inner["n"] = self.calls
        self.lin.extra = self.calls
        self.lin.training = bool(self.calls % 2)
        if self.refuse and x.sum() > 0:
            return x
        return self.lin(x)


class Helper:
    def __init__(self) -> None:
        self.calls = 0
        self.inner: dict[str, int] = {}


def held(model: Counts) -> Any:
    return (
        model.calls,
        dict(Counts.seen),
        list(model.shapes),
        {k: list(v) for k, v in model.by_name.items()},
        model.cache,
        list(model.queue),
        set(model.names),
        model.log.tolist(),
        model.helper.calls,
        model.config.calls,
        [p.grad for p in model.parameters()],
        dict(model.helper.inner),
        sorted(model.lin.__dict__),
        [m.training for m in model.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        [p.requires_grad for p in model.parameters()],
        [p._version for p in model.parameters()],
    )


@pytest.mark.parametrize("refuse", [False, True])
def test_a_model_is_left_as_it_was(refuse: bool) -> None:
    model = Counts(refuse).eval()
    model.shapes.append("mine")
    model.lin.weight.requires_grad_(False)
    before = held(model)
    if refuse:
        with pytest.raises(CaptureError, match="takes a decision"):
            recfx.optimize(model, example_inputs=torch.ones(4, 4))
    else:
        recfx.optimize(model, example_inputs=torch.ones(4, 4))
    assert held(model) == before


def test_hooks_and_what_they_close_over_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    recfx.optimize(model, example_inputs=torch.ones(4, 4), measure=False)
    assert calls == []
    assert len(model[0]._forward_hooks) == 1


class Caches(nn.Module):
    """Computes a table at its first call, like graph recommenders."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.cached: Any = None

    def forward(self, ids):
        if self.cached is None:
            self.cached = self.table.weight * 2
        return self.cached[ids]


def test_what_tracing_caches_does_not_reach_the_users_model() -> None:
    model = Caches().eval()
    fast = recfx.optimize(model, example_inputs=torch.arange(5), measure=False)
    assert model.cached is None
    torch.testing.assert_close(fast(torch.arange(9)), model(torch.arange(9)))


class Writes(nn.Module):
    """Writes to state in a way that a graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 3), requires_grad=False)
        self.register_buffer("hits", torch.zeros(2))

    def forward(self, x):
        self.hits.add_(1)
        self.table.data = self.table.data * 1.0
        return x + self.table[0]


def test_tensors_that_forward_writes_to_are_put_back() -> None:
    model = Writes().eval()
    pointer = model.table.data_ptr()
    state = ModelState(model)
    with state.watch():
        model(torch.ones(2, 3))
    assert model.hits.tolist() == [1, 1]
    assert model.table.data_ptr() != pointer
    assert state.restore() == []
    assert model.hits.tolist() == [0, 0]
    assert model.table.data_ptr() == pointer


def test_what_cannot_be_put_back_is_said() -> None:
    model = Writes().eval()
    with pytest.warns(UserWarning, match=r"could not be put back: float32\[2\]"), unchanged(model):
        model(torch.ones(2, 3))


def test_large_tables_are_not_copied() -> None:
    model = nn.Embedding(1000, 8).eval()
    state = ModelState(model)
    with state.watch():
        model(torch.arange(3))
    assert all(s.copy is None for s in state._tensors.values())


class SwitchesGlobals(nn.Module):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        torch.rand(1)
        random.random()
        np.random.rand()
        return x * 2


def test_generators_and_the_default_dtype_are_put_back() -> None:
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    capture(SwitchesGlobals().eval(), (torch.ones(3, 2),))
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
