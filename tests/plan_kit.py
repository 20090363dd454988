"""Functions whose plans have steps of many kinds, and the slots and steps of these plans."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from native_kit import LEVELS, Module, partition
from torch.nn import functional

from recfx.capture import capture
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.targets.native.plan import Plan
from recfx.targets.native.steps import Slot, Step

Function = Callable[..., Any]
X, WIDE, IDS = torch.randn(4, 6), torch.randn(4, 3, 6), torch.arange(12).reshape(4, 3) % 5
TABLE = torch.randn(5, 8)
GATES = [torch.randn(15, 6), torch.randn(15, 5), torch.randn(15), torch.randn(15)]

#: Functions whose plans have steps of many kinds.
FUNCTIONS: dict[str, tuple[Function, list[torch.Tensor]]] = {
    "products": (lambda x: functional.linear(x, torch.ones(3, 6), torch.ones(3)).relu(), [X]),
    "element-wise": (lambda x: x[:, 1:3] * x[:, 4:] + 1, [X]),
    "whole numbers": (lambda i: (i * 2 + 1, i.sum(1), i.cumsum(1)), [IDS]),
    "sums": (lambda x: (x.sum(1), x.softmax(2), x.cumsum(1), x.std(1)), [WIDE]),
    "extremes": (lambda x: (x.argmax(2), x.max(1)[0]), [WIDE]),
    "norms": (lambda x: functional.layer_norm(x, [6]), [WIDE]),
    "batched products": (lambda x: x @ x.mT, [WIDE]),
    "attention": (lambda x: functional.scaled_dot_product_attention(x, x, x, x @ x.mT > 0), [WIDE]),
    "picks": (lambda x, i: torch.gather(x[..., 0], 1, i % 3), [WIDE, IDS]),
    "rows": (lambda i: functional.embedding(i, TABLE), [IDS]),
    "bags": (lambda i: torch.cat([functional.embedding(i[:, k], TABLE) for k in range(3)], 1), [IDS]),
    "order": (lambda x: (x.topk(2, 1).indices, x.sort(2).values), [WIDE]),
    "windows": (lambda x: functional.conv1d(x.repeat(1, 1, 3), torch.ones(5, 3, 4)), [WIDE]),
    "recurrent layers": (lambda x: torch.gru(x, x.new_zeros(1, x.shape[0], 5), GATES, True, 1, 0.0, False, False, True)[0], [WIDE]),
    "sequences with lengths": (
        lambda x, i: torch.ops.recfx.recurrence(x, i[:, 0] % 3 + 1, None, None, GATES, "gru", False), [WIDE, IDS]
    ),
    "interactions": (lambda x: functional.conv1d(_outer(x), torch.ones(4, 9, 1)), [WIDE]),
    "numbers": (lambda x: torch.arange(x.shape[0]) * 2 + x[:, 0], [X]),
    "dots": (lambda x: torch.cat([x[:, 0], _pairs(x)], 1), [WIDE]),
    "factorisation": (lambda x: 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)), [WIDE]),
}  # fmt: skip


def _outer(x: torch.Tensor) -> torch.Tensor:
    return (x.unsqueeze(2) * x.unsqueeze(1)).reshape(-1, 9, 6)


def _pairs(x: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.tril_indices(3, 3, -1)
    return (x @ x.mT)[:, rows, columns]


@cache
def plans(name: str) -> list[tuple[list[Slot], list[Step]]]:
    """The slots and steps of the plans that a function is lowered to."""
    function, inputs = FUNCTIONS[name]
    found: list[tuple[list[Slot], list[Step]]] = []
    made = Plan.__init__

    def keep(self: Plan, library: Any, level: str, builder: Any, arguments: Any) -> None:
        found.append((copy.copy(builder.slots), copy.copy(builder.steps)))
        made(self, library, level, builder, arguments)

    program = Pipeline(NATIVE_PIPELINE).run(capture(Module(function).eval(), tuple(inputs), {})).program
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "__init__", keep)
        partition(program, LEVELS[0])
    return found
