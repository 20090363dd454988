"""Writes through views reach the tensors behind them, with the same bits."""

from __future__ import annotations

import pytest
import torch
from functional_cases import Body, check, collect

CASES: dict[str, Body] = {}
case = collect(CASES)


@case
def write_slice(x):
    y = x.clone()
    y[:, 1:3] = x[:, 3:5]
    return y


@case
def write_strided_slice(x):
    y = x.clone()
    y[:, ::2] *= 3
    return y


@case
def write_negative_slice(x):
    y = x.clone()
    y[:, -2:] += 1
    return y


@case
def write_batch_slice(x):
    y = x.clone()
    y[0:1] = 0
    return y


@case
def write_select(x):
    y = x.clone()
    y[:, 0] = x[:, 1] * 2
    return y


@case
def write_last_select(x):
    y = x.clone()
    y[:, -1] = 4
    return y


@case
def write_transpose(x):
    y = x.clone()
    y.transpose(0, 1).mul_(2)
    y.t().add_(1)
    y.T.sub_(3)
    y.mT.mul_(1.5)
    return y


@case
def write_permute(x):
    y = x.clone().reshape(-1, 2, 3)
    y.permute(2, 0, 1).mul_(torch.arange(3.0).view(3, 1, 1))
    return y


@case
def write_movedim(x):
    y = x.clone().reshape(-1, 2, 3)
    y.movedim(0, 2).mul_(2)
    y.swapaxes(1, 2).add_(1)
    return y


@case
def write_reshape(x):
    y = x.clone()
    y.reshape(-1, 2, 3)[:, 1] = 9
    return y


@case
def write_view(x):
    y = x.clone()
    y.view(-1)[0] = 9
    return y


@case
def write_flatten_unflatten(x):
    y = x.clone()
    y.unflatten(1, (3, 2))[:, 2, 0] = 5
    y.flatten().mul_(2)
    return y


@case
def write_unsqueeze_squeeze(x):
    y = x.clone()
    y.unsqueeze(1).add_(1)
    y.unsqueeze(0).squeeze(0).mul_(2)
    y[:, :1].squeeze(1).zero_()
    return y


@case
def write_split(x):
    y = x.clone()
    a, b, c = y.split(2, dim=1)
    a.add_(1)
    c.mul_(b)
    return y, b


@case
def write_split_sizes(x):
    y = x.clone()
    a, b = y.split([2, 4], dim=1)
    b.zero_()
    return y, a + b.sum()


@case
def write_split_negative_dim(x):
    y = x.clone()
    _, b = y.split([2, 4], dim=-1)
    b.fill_(2.0)
    return y


@case
def write_chunk(x):
    y = x.clone()
    for i, part in enumerate(y.chunk(3, dim=1)):
        part.mul_(i)
    return y


@case
def write_unbind(x):
    y = x.clone()
    parts = y.unbind(1)
    parts[3].fill_(2)
    parts[0].add_(parts[3])
    return y, parts[0]


@case
def write_tensor_split(x):
    y = x.clone()
    y.tensor_split(3, dim=1)[1].zero_()
    return y


@case
def write_narrow(x):
    y = x.clone()
    y.narrow(1, 2, 3).add_(1)
    return y


@case
def write_diagonal(x):
    y = x.clone().reshape(-1, 2, 3).transpose(0, 1)[:, :1].contiguous()
    y.diagonal().zero_()
    return y


@case
def write_expand_as_same(x):
    y = x.clone()
    y.expand(-1, 6).add_(1)
    return y


@case
def view_taken_before_unsqueeze(x):
    y = x * 2
    first = y[:, 0]
    y.unsqueeze_(1)
    return first.unsqueeze(1) + y.sum(1)


@case
def squeezed_in_a_loop(x):
    found = []
    for i in range(4):
        y = x[:, i : i + 1] * 3
        y.squeeze_(1)
        found.append(y)
        y = y.unsqueeze(1)
        y.unsqueeze_(0)
        found.append((y * 2).sum((0, 2)))
    return torch.stack(found, 1)


@case
def turned_and_turned_back(x):
    y = x * 2
    y.t_()
    by_column = y.sum(1)
    y.t_()
    y.transpose_(0, 1).swapaxes_(1, 0).swapdims_(0, 1)
    return y.t() + by_column


@case
def writes_around_a_change_of_shape(x):
    y = x.clone()
    column = y[:, 1]
    y.add_(1).unsqueeze_(2)
    y[:, 0, 0] = 5
    y.squeeze_(-1).mul_(3)
    column.sub_(7)
    return y + column.unsqueeze(1)


@case
def write_through_a_view_of_the_changed_shape(x):
    y = x.clone()
    y.unsqueeze_(1)
    y[:, 0].mul_(2)
    y.transpose(1, 2).add_(1)
    return y.squeeze(1) * x


@pytest.mark.parametrize("name", CASES)
def test_in_place_form_through_views(name: str) -> None:
    check(CASES[name])
