"""Names and containers that work in eager: mappings of every type and order, keywords of any name, state called like a method."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture
from recfx.errors import InputError
from recfx.runtime.entry import entry_function


class Attributes(dict):  # type: ignore[type-arg]
    """A dict whose keys are attributes, as in easydict."""

    __getattr__ = dict.__getitem__


class Batch(collections.UserDict):  # type: ignore[type-arg]
    """A tokenizer's batch, as in transformers."""


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 1)

    def forward(self, f):
        return {"out": self.lin(f["a"]) + f["b"].sum(1, keepdim=True) * 2}


MAPPINGS = [dict, collections.OrderedDict, lambda v: collections.defaultdict(None, v), Attributes, Batch]


def features(rows: int, order: str = "ab") -> dict[str, torch.Tensor]:
    torch.manual_seed(rows)
    values = {"a": torch.randn(rows, 3), "b": torch.randn(rows, 2)}
    return {key: values[key] for key in order}


@pytest.mark.parametrize("make", MAPPINGS)
def test_mappings_of_any_type_and_order(make: Any) -> None:
    model = Sum().eval()
    fast = recfx.optimize(model, example_inputs=(make(features(4)),), measure=False)
    for other in MAPPINGS:
        for order in ("ab", "ba"):
            given = other(features(3, order))
            torch.testing.assert_close(fast(given)["out"], model(given)["out"])


def test_keys_that_differ_are_named() -> None:
    fast = recfx.optimize(Sum().eval(), example_inputs=(features(4),), measure=False)
    with pytest.raises(InputError, match="f has 'c', which the captured one lacks"):
        fast({**features(3), "c": torch.ones(3)})
    with pytest.raises(InputError, match="f lacks 'b'"):
        fast({"a": torch.randn(3, 3)})
    with pytest.raises(InputError, match="f lacks 'b' and has 'c'"):
        fast({"a": torch.randn(3, 3), "c": torch.ones(3)})


class Strict(collections.UserDict):  # type: ignore[type-arg]
    def __init__(self, a: Any, b: Any) -> None:
        super().__init__({"a": a, "b": b})


def test_a_mapping_that_cannot_be_made_again_is_refused() -> None:
    with pytest.raises(InputError, match="a Strict cannot be taken apart") as caught:
        capture(Sum().eval(), (Strict(**features(4)),))
    assert caught.value.hint == "pass a dict, or give Strict a constructor that takes a dict"


def test_one_tensor_given_twice() -> None:
    model, x = Sum().eval(), torch.randn(4, 3)
    fast = recfx.optimize(model, example_inputs=({"a": x, "b": x},), measure=False)
    given = {"a": torch.randn(3, 3), "b": torch.randn(3, 3)}
    torch.testing.assert_close(fast(given)["out"], model(given)["out"])


class AnyNames(nn.Module):
    def forward(self, x0, **f):
        return x0 + f["user-id"] * 2 + f["class"] * 3 + f["a0"] * 5 + f["isinstance"] * 7 + f["_run"] * 11


def test_keywords_of_any_name() -> None:
    model = AnyNames().eval()
    names = ["x0", "user-id", "class", "a0", "isinstance", "_run"]

    def given(rows: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(rows, 2) for name in names}

    fast = recfx.optimize(model, example_kwargs=given(4), measure=False)
    for rows in (1, 3):
        inputs = given(rows)
        torch.testing.assert_close(fast(**inputs), model(**inputs))
    with pytest.raises(InputError, match="unknown argument 'other'"):
        fast(**given(2), other=torch.ones(2, 2))


class Swapped(nn.Module):
    def forward(self, a1, a0, type=None):
        return a1 - 2 * a0 if type is None else a1 * type


def test_parameters_called_like_names_of_the_generated_code() -> None:
    model = Swapped().eval()
    a, b, c = (torch.randn(3, 2) for _ in range(3))
    for example in ((a, b), (a, b, c)):
        fast = recfx.optimize(model, example_inputs=example, measure=False)
        torch.testing.assert_close(fast(*example), model(*example))
        torch.testing.assert_close(fast(a0=b, a1=a, **({"type": c} if len(example) > 2 else {})), model(*example))


def test_ordinary_names_cost_no_second_function() -> None:
    program = capture(Sum().eval(), (features(4),))
    assert entry_function(program.signature, program.run).__name__ == "entry"


NAMES = ["half", "float", "to", "T", "type", "cpu", "children", "graph", "code", "forward_", "class", "0", "ü", "data"]


class Named(nn.Module):
    """Has a submodule, a parameter and a buffer with the name of one of a module's methods."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._modules[name] = nn.Embedding(9, 3)
        self._parameters[f"{name}_"] = nn.Parameter(torch.randn(3))
        self.inner = nn.Module()
        self.inner._parameters[name] = nn.Parameter(torch.randn(3))
        self.inner._buffers["double"] = torch.randn(3)

    def forward(self, ids):
        rows = self._modules[self.name](ids) * self._parameters[f"{self.name}_"]
        return rows + self.inner._parameters[self.name] * self.inner._buffers["double"]


@pytest.mark.parametrize("name", NAMES)
def test_state_called_like_a_method(name: str, tmp_path: Any) -> None:
    model = Named(name)
    for module in model.modules():
        module.training = False
    fast = recfx.optimize(model, example_inputs=torch.arange(5), measure=False)
    ids = torch.tensor([8, 0, 3])
    torch.testing.assert_close(fast(ids), model(ids))
    fast.save(tmp_path / "model")
    torch.testing.assert_close(recfx.load(tmp_path / "model")(ids), model(ids))
    fast.refresh()
    torch.testing.assert_close(fast(ids), model(ids))


class Optional(nn.Module):
    """Inputs in the middle are optional. Each has another factor, so that the result shows a value in a wrong
    position."""

    def forward(self, x, mask=None, weight=None, bias=None, *, extra=None, scale: float = 2.0):
        y = x * scale
        y = y if mask is None else y * mask
        y = y if weight is None else y + 10 * weight
        y = y if bias is None else y - bias
        return y if extra is None else y / extra


SKIPS = [
    ("weight",),
    ("bias",),
    ("mask", "bias"),
    ("bias", "extra"),
    ("extra",),
    ("weight", "scale"),
    ("mask", "weight"),
]


@pytest.mark.parametrize("dynamic", [None, False], ids=["free batch", "fixed"])
@pytest.mark.parametrize("given", SKIPS, ids=" ".join)
def test_inputs_after_one_that_was_left_out_keep_their_names(given: tuple[str, ...], dynamic: bool | None) -> None:
    torch.manual_seed(0)
    named = {name: 0.5 if name == "scale" else torch.rand(4, 3) + 1 for name in given}
    x, model = torch.rand(4, 3), Optional().eval()
    fast = recfx.optimize(
        model, example_inputs=(x,), example_kwargs=named, dynamic_shapes=dynamic, measure=False, verify="off"
    )
    torch.testing.assert_close(fast(x, **named), model(x, **named))
    torch.testing.assert_close(fast(x=x, **dict(reversed(named.items()))), model(x, **named))
    with pytest.raises(InputError):
        fast(x, *named.values(), *[torch.rand(4, 3)] * 4)
