"""Helpers of the tests of programs: small programs, and tensors that are equal in every call."""

from __future__ import annotations

from functools import cache

import torch
from models import TinyCtr
from models import tiny_inputs as tiny_inputs_of
from torch import nn

from recfx.capture import capture
from recfx.ir import Program

I64 = torch.tensor([0, 2, 1])


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class DictModel(nn.Module):
    def forward(self, x, features, *, scale=2.0):
        return {"out": (x * scale + features["a"], [features["b"] + 1])}


def dict_inputs(batch: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.randn(batch, 3), {"a": torch.randn(batch, 3), "b": torch.arange(batch)}


@cache
def tiny_program() -> Program:
    return capture(TinyCtr(), tiny_inputs_of(4))


@cache
def nested_program() -> Program:
    return capture(DictModel().eval(), dict_inputs(4), max_batch=64)
