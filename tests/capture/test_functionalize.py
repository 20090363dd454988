"""In-place models become functional graphs with the same bits: refusals, and random programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functional_cases import Body, Fn, check, floats
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.capture import capture
from recfx.errors import CaptureError


def write_input(x):
    x[:, 0] = 0
    return x


def write_input_view(x):
    x.view(-1).add_(1)
    return x


def write_expanded(x):
    y = x[:, :1].clone()
    y.expand(-1, 3)[:, 0].add_(1)
    return y


def write_as_strided(x):
    y = x.clone()
    y.as_strided((1, 2), (2, 1)).add_(1)
    return y


@pytest.mark.parametrize("body", [write_expanded, write_as_strided])
def test_form_without_a_functional_counterpart_is_refused(body: Body) -> None:
    with pytest.raises(CaptureError) as caught:
        check(body)
    assert caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize("body", [write_input, write_input_view])
def test_write_to_input_is_refused(body: Body) -> None:
    with pytest.raises(CaptureError, match="writes to its input 'x'") as caught:
        capture(Fn(body), (floats(4),))
    assert "functional_cases.py" in str(caught.value)  # where `forward` is


def rows_but_one_flat_and_back(x):
    y = (x * 2).transpose(0, 1)[..., 1:]
    return y.reshape(-1).reshape(y.shape)


def test_sizes_below_those_of_the_program_are_named() -> None:
    """`reshape` of two rows less one asks whether that one row is contiguous, so the program is for three rows and more."""
    program = capture(Fn(rows_but_one_flat_and_back), (floats(4),))
    assert program.signature.dims["batch"][0] == 3
    assert any(
        "aten.reshape" in notice and "limits the program to batches 3 to" in notice for notice in program.notices
    )
    check(rows_but_one_flat_and_back)


def copy_at_two_rows_alias_at_one(x):
    y = x.clone()
    y.t().contiguous().add_(1)
    return y


def test_aliasing_of_one_row_alone_is_left_out_of_the_program() -> None:
    """`contiguous` of one transposed row is the row itself, so a write to it changes the result only for a batch of
    one."""
    model = Fn(copy_at_two_rows_alias_at_one)
    program = capture(model, (floats(4),))
    assert program.signature.dims["batch"][0] == 2
    assert any("limits the program to batches 2 to" in notice for notice in program.notices)
    fast = recfx.optimize(model, example_inputs=(floats(4),), measure=False)
    assert fast.report.one_row is not None
    for rows in (1, 2, 5):
        x = torch.randn(rows, 6)
        assert torch.equal(fast(x), model(x.clone()))


# Random programs. A value is a tensor; each step makes a view of a value, writes to a value, or computes from two
# values.

VIEWS: dict[str, Body] = {
    "columns": lambda y: y[..., 1:],
    "first": lambda y: y[..., 0:1],
    "every other": lambda y: y[..., ::2],
    "transposed": lambda y: y.transpose(0, 1),
    "unsqueezed": lambda y: y.unsqueeze(1).squeeze(1),
    "half": lambda y: y.chunk(2, dim=-1)[0],
    "flat and back": lambda y: y.reshape(-1).reshape(y.shape),
    "contiguous": lambda y: y.contiguous(),
    "dropout": lambda y: nn.functional.dropout(y, 0.3, False),
    "unbound": lambda y: y.unbind(1)[0].unsqueeze(1),
}
WRITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "add": lambda y: y.add_(1),
    "mul": lambda y: y.mul_(0.5),
    "relu": lambda y: torch.relu_(y),
    "zero": lambda y: y.zero_(),
    "column": lambda y: y[..., 0].fill_(2),
    "masked": lambda y: y.masked_fill_(y > 0.3, -1.0),
}

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("view"), st.sampled_from(sorted(VIEWS)), st.integers(0, 9)),
        st.tuples(st.just("write"), st.sampled_from(sorted(WRITES)), st.integers(0, 9)),
        st.tuples(st.just("new"), st.just(""), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=8,
)


@given(STEPS)
def test_random_programs_of_views_and_writes(steps: list[tuple[str, str, int]]) -> None:
    def body(x: torch.Tensor) -> list[torch.Tensor]:
        values = [x * 2]
        for kind, name, pick in steps:
            source = values[pick % len(values)]
            if kind == "view":
                values.append(VIEWS[name](source))
            elif kind == "new":
                values.append(source * 3)
            else:
                WRITES[name](source)
        return values

    if ("contiguous" in [name for _, name, _ in steps]) and any(kind == "write" for kind, _, _ in steps):
        reject()  # one row of columns is contiguous, several are not: whether a write reaches the original depends on the batch
    try:
        check(body, batches=(2, 5))
    except CaptureError as error:
        if "fixes a dimension" not in error.what and "another number of operators" not in error.what:
            raise
        reject()  # half of a transposed value splits the batch, and unbinding it loops over the rows: no graph with a free batch can
