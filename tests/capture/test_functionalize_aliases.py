"""Writes through aliases, and through several views of one tensor, keep the same bits."""

from __future__ import annotations

import pytest
import torch
from functional_cases import Body, check, collect
from torch import nn

CASES: dict[str, Body] = {}
case = collect(CASES)


@case
def write_through_dropout_alias(x):
    y = x.clone()
    z = nn.functional.dropout(y, 0.5, training=False)
    z.add_(1)
    return y, z


@case
def write_through_contiguous_alias(x):
    y = x.clone()
    y.contiguous().add_(1)
    return y


@case
def contiguous_that_copies(x):
    y = x.reshape(-1, 2, 3).clone()
    y.transpose(1, 2).contiguous().add_(1)
    return y


@case
def reshape_that_copies(x):
    y = x.reshape(-1, 2, 3).clone()
    z = y.transpose(1, 2).reshape(-1, 6)
    z.add_(1)
    return y, z


@case
def view_of_a_transposed_copy(x):
    y = x.clone()
    y.t().copy_(torch.arange(6.0).view(6, 1))
    return y.view(-1) * 2


@case
def to_that_aliases(x):
    y = x.clone()
    y.to(torch.float32).add_(1)
    y.to(torch.float64).add_(1)
    y.float().mul_(2)
    return y


@case
def detach_alias(x):
    y = x.clone()
    y.detach().add_(1)
    y.data.mul_(2)
    return y


@case
def chained_views(x):
    y = x.clone()
    y.view(-1, 2, 3)[:, 1].transpose(0, 1)[1:].unsqueeze(0).mul_(5)
    return y


@case
def view_before_write_read_after(x):
    y = x.clone()
    row = y[:, 2]
    square = y.view(-1, 3, 2)
    y.mul_(2)
    return row + 1, square


@case
def view_of_view_read_after(x):
    y = x.clone()
    a = y[:, :4]
    b = a[:, 1:]
    y.add_(1)
    a.mul_(2)
    return b, a, y


@case
def two_views(x):
    y = x.clone()
    a, b = y[:, :4], y[:, 2:]
    a.add_(1)
    b.mul_(2)
    a.sub_(b.clone())
    return y, a, b


@case
def self_overlap_read(x):
    y = x.clone()
    y[:, 1:] = y[:, :-1].clone()
    y[:, :3] += y[:, 3:]
    return y


@case
def result_of_inplace_is_a_view_base(x):
    y = (x + 1).mul_(2)
    z = y.view(-1)
    z += 1
    return y


@case
def loop_over_columns(x):
    y = torch.zeros(x.shape[0], 4)
    for i in range(4):
        y[:, i] = x[:, i] * x[:, i + 1]
    return y


@case
def cumulative_buffer(x):
    y = torch.zeros(x.shape[0], 3, 6)
    y[:, 0] = x
    for t in range(1, 3):
        y[:, t] = y[:, t - 1] * 0.5 + x
    return y


@pytest.mark.parametrize("name", CASES)
def test_in_place_form_through_aliases(name: str) -> None:
    check(CASES[name])
