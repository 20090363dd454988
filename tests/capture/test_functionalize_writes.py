"""In-place operators on whole tensors become functional ones with the same bits."""

from __future__ import annotations

import pytest
import torch
from functional_cases import Body, check, collect
from torch import nn

CASES: dict[str, Body] = {}
case = collect(CASES)


@case
def add_scalar(x):
    y = x * 2
    y.add_(1)
    return y


@case
def augmented_operators(x):
    y = x.clone()
    y += x
    y *= 3
    y -= 1
    y /= 7
    return y


@case
def relu_result_used(x):
    return torch.relu_(x + 1) * 2


@case
def inplace_modules(x):
    return nn.functional.leaky_relu(nn.functional.relu(x * 2, inplace=True) - 1, inplace=True)


@case
def more_activations(x):
    y = torch.sigmoid_(x.clone())
    y = nn.functional.silu(y, inplace=True)
    y = nn.functional.hardtanh(y, -0.1, 0.6, inplace=True)
    return nn.functional.elu(y, inplace=True).tanh_().clamp_(min=0.01).sqrt_().exp_().neg_()


@case
def masked_fill(x):
    y = x.clone()
    y.masked_fill_(x > 0, -1.0)
    return y


@case
def masked_assignment(x):
    y = x.clone()
    y[x > 0] = 0.5
    return y


@case
def index_assignment(x):
    y = x.clone()
    y[:, torch.tensor([0, 2])] = 7.0
    return y


@case
def index_put_accumulate(x):
    y = torch.zeros(6)
    return y.index_put_((torch.tensor([1, 1, 4, 0, 0, 2]),), x.sum(0), accumulate=True)


@case
def scatter_add(x):
    y = torch.zeros(x.shape[0], 3)
    return y.scatter_add_(1, (x > 0).long(), x)


@case
def index_add(x):
    return torch.zeros(x.shape[0], 3).index_add_(1, torch.tensor([0, 1, 2, 0, 1, 2]), x)


@case
def copy_broadcast(x):
    y = x.clone()
    y.copy_(x[:, :1])
    return y


@case
def copy_converts(x):
    y = torch.zeros(x.shape[0], 6, dtype=torch.int64)
    y.copy_(x * 10)
    return y


@case
def int_plus_bool(x):
    y = (x * 10).long()
    y += x > 0
    return y


@case
def float32_plus_float64_scalar_tensor(x):
    y = x.clone()
    y += torch.tensor(0.1, dtype=torch.float64)
    return y


@case
def float32_plus_float64_tensor(x):
    y = x.clone()
    y += x.double() / 3
    return y


@case
def bool_inplace(x):
    y = x > 0
    y |= x < -1
    y &= x < 1
    y.logical_not_()
    return y


@case
def comparison_inplace(x):
    y = x.clone()
    y.gt_(0)
    return y


@case
def value_computed_before_the_write(x):
    y = x.clone()
    before = y * 2
    y.zero_()
    return before + y


@case
def zero_and_fill(x):
    y = x.clone()
    y.zero_()
    y[:, 1].fill_(2.5)
    y[:, 2].fill_(torch.tensor(3.5))
    z = torch.empty_like(x).fill_(float("inf"))
    return y, z


@case
def no_grad_block(x):
    y = x.clone()
    with torch.no_grad():
        y.add_(1)
        y[:, 0] = 3
    return y * 2


@case
def constant_tensor(x):
    y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    return x * y


@case
def constant_tensor_written(x):
    y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    y[2] = 0
    return x * y


@case
def lerp_addcmul(x):
    y = x.clone()
    y.lerp_(x * 2, 0.3)
    y.addcmul_(x, x, value=0.5)
    y.addcdiv_(x, x.abs() + 1, value=0.5)
    return y


@case
def addmm_inplace(x):
    y = torch.zeros(x.shape[0], 6)
    return y.addmm_(x, torch.eye(6), beta=0.5, alpha=2.0)


@case
def where_after_triu(x):
    y = x.new_ones(6, 6).triu_(1)
    return x @ y


@case
def pow_floor_round(x):
    return x.clone().abs_().pow_(2).mul_(10).floor_().remainder_(3).round_()


@case
def squeeze_inplace_shape(x):
    y = (x + 0).unsqueeze(1)
    y.squeeze_(1)
    y.unsqueeze_(0)
    return y * 2


@case
def transpose_inplace_shape(x):
    y = x + 0
    y.t_()
    return y * 2


@pytest.mark.parametrize("name", CASES)
def test_in_place_form(name: str) -> None:
    check(CASES[name])
