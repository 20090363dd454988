"""Names of parameters that a graph module cannot have get others, in programs as torch exports them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recfx.capture.state_names import _carried_names, clashes, rename_clashes


@pytest.mark.parametrize(
    "part", ["graph", "code", "forward", "recompile", "training", "_parameters", "class", "lambda"]
)
def test_names_that_a_graph_module_uses(part: str) -> None:
    assert clashes(part)


@pytest.mark.parametrize("part", ["weight", "graph_", "user", "0"])
def test_names_that_are_free(part: str) -> None:
    assert not clashes(part)


@pytest.mark.parametrize(
    ("names", "new"),
    [
        (["a.weight", "a.bias"], ["a.weight", "a.bias"]),
        (["graph.weight", "graph.bias"], ["graph_.weight", "graph_.bias"]),
        (["graph.weight", "graph_.weight"], ["graph__.weight", "graph_.weight"]),
        (["graph_.weight", "graph.weight"], ["graph_.weight", "graph__.weight"]),
        (["a.graph", "graph"], ["a.graph_", "graph_"]),
        (["graph.code.class"], ["graph_.code_.class_"]),
    ],
)
def test_clashing_parts_get_underscores(names: list[str], new: list[str]) -> None:
    assert _carried_names(names) == dict(zip(names, new, strict=True))


def test_an_exported_program_is_renamed_throughout() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(3, 2)
            self.plain = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.plain(self.code(x))
            return result

    model = Model()
    exported = torch.export.export(model, (torch.zeros(4, 3),), strict=False)
    state = dict(exported.state_dict)
    assert rename_clashes(exported) == {"code.weight": "code_.weight", "code.bias": "code_.bias"}
    assert set(exported.state_dict) == {"code_.weight", "code_.bias", "plain.weight", "plain.bias"}
    assert exported.state_dict["code_.weight"] is state["code.weight"]
    targets = {spec.target for spec in exported.graph_signature.input_specs if spec.target is not None}
    assert targets == set(exported.state_dict)
    assert rename_clashes(exported) == {}
