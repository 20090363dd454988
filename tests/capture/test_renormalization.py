"""The hints for tables whose lookups renormalise rows: the code in them gives a model with the same answers."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch
from torch import fx, nn

from recfx.capture.renormalization import renormalization_hint

_RENORM: Any = torch.ops.aten.embedding_renorm_.default
IDS = torch.tensor([[0, 3, 3], [1, 2, 0]])


def _node(owner: Any, max_norm: float, norm_type: float) -> fx.Node:
    graph = fx.Graph()
    node = graph.call_function(_RENORM, (graph.placeholder("w"), graph.placeholder("ids"), max_norm, norm_type))
    if owner is not None:
        node.meta["nn_module_stack"] = {"a": ("", "Model"), "b": ("table", owner)}
    return node


def _run(hint: str, model: nn.Module) -> None:
    exec(textwrap.dedent(hint.partition("\n\n")[2]), {"torch": torch, "model": model})


@pytest.mark.parametrize("owner", [nn.Embedding, "torch.nn.modules.sparse.Embedding", "x.EmbeddingBag"])
def test_modules_are_renormalised_and_lose_their_limit(owner: Any) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        rows = nn.ModuleDict(
            {"a": nn.Embedding(5, 4, max_norm=0.5), "b": nn.EmbeddingBag(5, 4, max_norm=0.5, norm_type=1.0)}
        )
        rows["c"] = nn.Embedding(5, 4)
        return rows

    before, after = made(), made()
    want = [table(IDS) for table in before.values()]  # type: ignore[operator]
    _run(renormalization_hint(_node(owner, 0.5, 2.0), "table.weight"), after)
    assert all(table.max_norm is None for table in after.values())  # type: ignore[operator]
    for table, expected in zip(after.values(), want, strict=True):  # type: ignore[operator]
        torch.testing.assert_close(table(IDS), expected)


@pytest.mark.parametrize("owner", [None, "my.Model"])
@pytest.mark.parametrize("norm_type", [1.0, 2.0])
def test_tables_of_functions_are_named(owner: Any, norm_type: float) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rows = nn.Parameter(torch.randn(5, 4))

        def forward(self, limit: float | None) -> torch.Tensor:
            return nn.functional.embedding(IDS, self.rows, max_norm=limit, norm_type=norm_type)

    with torch.no_grad():
        want, model = Model()(0.5), Model()
        hint = renormalization_hint(_node(owner, 0.5, norm_type), "rows")
        assert "max_norm" in hint.partition("\n\n")[0]
        _run(hint, model)
        torch.testing.assert_close(model(None), want)
