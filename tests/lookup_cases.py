"""Helpers of the tests of fused lookups: ids, tables and cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pass_cases import Case, Function
from torch import nn

from recfx.ir import Program
from recfx.ops.lookup import Feature, decode, grouped_lookup

RNG = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 9, (4, 6), generator=RNG)
CUBE = torch.randint(0, 3, (4, 2, 3), generator=RNG)
DENSE = torch.randn(4, 5, generator=RNG)
WEIGHTS = torch.rand(4, 6, generator=RNG)
ONE = {"recfx.grouped_lookup": 1, "aten.embedding": 0, "aten.cat": 0, "aten.stack": 0}
BAGGED = {**ONE, "aten.embedding_bag.padding_idx": 0, "aten.arange.start_step": 0}


def tables() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"a": nn.Embedding(9, 4), "b": nn.Embedding(9, 4), "c": nn.Embedding(12, 3), "one": nn.Embedding(9, 1)}


def case(body: Callable[..., Any], *inputs: torch.Tensor, fired: int = 1, after: dict[str, int] | None = None) -> Case:
    return Case(lambda: Function(body, **tables()), inputs or (IDS,), fired, ONE if after is None else after)


def features(program: Program) -> list[list[Feature]]:
    return [decode(n.args[5]) for n in program.graph.nodes if n.target is grouped_lookup]  # type: ignore[arg-type]
