"""Examples of one row with the batch in another dimension than the first, or as an integer: free where the model proves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hidden_batch_models import BatchSecond, BatchSizeArgument, ids
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.capture import capture
from recfx.capture.inputs import normalize_call
from recfx.capture.one_row_call import _near, one_row_call
from recfx.errors import InputError
from recfx.ir.batch_axes import Axis


class Model(nn.Module):
    """A table and a layer, and a function of the user's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(50, 8)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def second(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return self.items(sequence).mean(0) * self.items(user)


def second_out(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return {"states": self.items(sequence) + self.items(user), "user": user, "count": sequence.shape[0]}


def last(self: Any, user: torch.Tensor, dense: torch.Tensor) -> Any:
    return self.items(user).sum(1) + dense.transpose(0, 1) @ torch.ones(3, 8)


def constant_out(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return second(self, user, sequence), self.items.weight[:2]


def make_second(rows: int) -> tuple[Any, ...]:
    return ids(rows), ids(5, rows)


#: Name -> the model, its inputs for a number of rows, and where the batch of each leaf is.
PROVED: dict[str, tuple[Any, Callable[[int], tuple[Any, ...]], list[Axis | None]]] = {
    "a sequence": (BatchSecond(), make_second, [Axis(0), Axis(1)]),
    "a sequence of the user's": (Model(second), make_second, [Axis(0), Axis(1)]),
    "outputs of several forms": (Model(second_out), make_second, [Axis(0), Axis(1)]),
    "a constant output": (Model(constant_out), make_second, [Axis(0), Axis(1)]),
    "the last dimension": (Model(last), lambda rows: (ids(rows, 4), torch.randn(3, rows)), [Axis(0), Axis(1)]),
    "one of two sequences": (
        Model(lambda self, user, a, w: second(self, user, a) * (self.items.weight[:4] * w).sum()),
        lambda rows: (ids(rows), ids(5, rows), torch.arange(4.0)[:, None]),
        [Axis(0), Axis(1), None],
    ),
    "an integer": (BatchSizeArgument(), lambda rows: (ids(rows, 5), rows), [Axis(0), None]),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "an integer" else ()) for n in PROVED])
def test_the_batch_is_free_where_the_model_proves_it(name: str) -> None:
    model, make, axes = PROVED[name]
    found = one_row_call(model.eval(), normalize_call(model, make(1), {}))
    assert found is not None
    assert list(found.arrangement.axes) == axes
    fast = recfx.optimize(model, "eager", example_inputs=make(1), measure=False)
    for rows in (1, 2, 3, 7):
        inputs = make(rows)
        torch.testing.assert_close(fast(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


def test_notices_name_the_places_and_other_numbers_of_rows_are_refused() -> None:
    fast = recfx.optimize(BatchSizeArgument().eval(), "eager", example_inputs=(ids(1, 5), 1), measure=False)
    notice = "the example has one row, and these inputs hold the batch: "
    assert f"{notice}batch_size as its size" in fast.report.notices
    with pytest.raises(InputError, match="expected the size of batch, 4, got 1"):
        fast(ids(4, 5), 1)
    program = capture(BatchSecond().eval(), make_second(1))
    assert f"{notice}sequence in dimension 1" in program.notices
    with pytest.raises(InputError, match="sequence"):
        program(ids(4), ids(5, 1))


@pytest.mark.parametrize("rows", [1, 6])
def test_a_forward_of_any_keywords_is_traced_once(rows: int) -> None:
    """`Model.forward` has `**kwargs`, which export sees under other names."""
    program = capture(Model(second).eval(), make_second(rows))
    assert program.signature.dims == {"batch": (1, 65536)}
    assert not any("hidden from the tracer" in notice for notice in program.notices)


def weighted(self: Any, history: torch.Tensor, weight: torch.Tensor) -> Any:
    return (self.items(history) * weight).sum(1)


def scaled(self: Any, history: torch.Tensor, weight: torch.Tensor) -> Any:
    return self.items(history).mean(1) * weight.mean()


def mixed(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return self.items(user) + self.items(sequence).mean((0, 1))


def normed(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    rows = second(self, user, sequence)
    return rows / rows.norm()


def pooled(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return second(self, user, sequence).sum(0, keepdim=True)


def truncated(self: Any, history: torch.Tensor, batch_size: int) -> Any:
    return self.items(history).mean(1)[:, :batch_size]


def first_only(self: Any, user: torch.Tensor, sequence: torch.Tensor) -> Any:
    return second(self, user, sequence)[:1] + 0 * self.items(user).sum()


WEIGHT = torch.tensor([[0.5], [1.0], [2.0], [4.0], [8.0]])
#: Name -> the model, its inputs, and the reason why no other place than first dimensions is taken.
NOT_PROVED: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "weights of positions": (weighted, (ids(1, 5), WEIGHT), "the model refuses several columns"),
    "weights that are averaged": (scaled, (ids(1, 5), WEIGHT), "a row depends on the columns of other rows"),
    "a mean over all": (mixed, (ids(1), ids(5, 1)), "a row depends on the columns of other rows"),
    "a norm over the batch": (normed, (ids(1), ids(5, 1)), "a row depends on other rows"),
    "a sum over the batch": (pooled, (ids(1), ids(5, 1)), "no output has rows"),
    "one row of the result": (first_only, (ids(1), ids(5, 1)), "no output has rows"),
    "equal entries": (weighted, (ids(1, 5), torch.ones(5, 1)), "the model refuses several columns"),
    "an integer of another meaning": (truncated, (ids(1, 5), 1), "another dimension grows as well"),
    "only first dimensions": (lambda self, x: self.items(x), (ids(1, 5),), "no other place"),
    "an integer of another name": (lambda self, x, k: self.items(x)[:, :k], (ids(1, 5), 1), "no other place"),
    "a flag": (lambda self, x, batch_first: self.items(x), (ids(1, 5), True), "no other place"),
    "two rows": (second, (ids(2), ids(5, 2)), "not one row"),
    "a model that fails": (lambda self, x, y: x @ y, (ids(1, 5), ids(5, 1)), "the model refuses several columns"),
}


@pytest.mark.parametrize("name", NOT_PROVED)
def test_other_examples_keep_the_batch_in_first_dimensions(name: str) -> None:
    function, inputs, reason = NOT_PROVED[name]
    model = Model(function).eval()
    assert one_row_call(model, normalize_call(model, inputs, {})) is None, reason


def test_weights_of_positions_stay_fixed() -> None:
    model = Model(weighted).eval()
    program = capture(model, (ids(1, 5), WEIGHT))
    for rows in (1, 4):
        history = ids(rows, 5)
        torch.testing.assert_close(program(history, WEIGHT), model(history, WEIGHT))


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 6),
    per_row=st.booleans(),
    shared=st.sampled_from(["none", "sum", "max", "norm"]),
    seed=st.integers(0, 2**16),
)
def test_only_models_whose_rows_are_independent_are_proved(length: int, per_row: bool, shared: str, seed: int) -> None:
    """A model that mixes the rows in any way is never taken for one of independent rows."""
    generator = torch.Generator().manual_seed(seed)

    def function(self: Any, user: torch.Tensor, x: torch.Tensor) -> Any:
        rows = x.cumsum(0)[-1] if per_row else x.amax(0)
        mix = {"none": lambda: 1.0, "sum": lambda: x.sum(), "max": lambda: x.max(), "norm": lambda: rows.norm()}[
            shared
        ]()
        return self.items(user).sum(-1) + rows * mix

    model = Model(function).eval()
    call = normalize_call(
        model, (ids(1), torch.rand(length, 1, generator=generator) + torch.arange(length)[:, None]), {}
    )
    assert (one_row_call(model, call) is not None) == (shared == "none")


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ([1e6, 0.0], [1e6, 1e-2], True),
        ([1e6, 0.0], [1e6, 1e3], False),
        ([1.0, 0.0], [1.0, 1e-2], False),
        ([float("nan"), 0.0], [float("nan"), 1e-2], False),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ([float("inf"), 1.0], [float("inf"), 1.1], False),
        ([], [], True),
        ([0.0], [0.0, 0.0], False),
    ],
)
def test_what_is_near_goes_by_the_largest_number(a: list[float], b: list[float], near: bool) -> None:
    assert _near(torch.tensor(a), torch.tensor(b)) is near


def test_integers_are_near_only_if_equal() -> None:
    assert _near(torch.tensor([1 << 40, 0]), torch.tensor([1 << 40, 0]))
    assert not _near(torch.tensor([1 << 40, 0]), torch.tensor([1 << 40, 1]))
    assert not _near(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))
