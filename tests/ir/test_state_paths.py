"""Dotted names of state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recfx.ir.state_paths import get_state


class Model(nn.Module):
    plain = 3

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(3, 2)])
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("absent", None)
        self.register_parameter("bias", None)
        self.held = {"a": 1}


def test_a_path_gives_what_getattr_gives() -> None:
    model = Model()
    assert get_state(model, "tables.1.weight") is model.tables[1].weight
    assert get_state(model, "tables.0") is model.tables[0]
    assert get_state(model, "scale") is model.scale
    assert get_state(model, "absent") is None
    assert get_state(model, "bias") is None
    assert get_state(model, "plain") == 3
    assert get_state(model, "held") is model.held
    assert get_state(model, "forward") == model.forward


@pytest.mark.parametrize("name", ["tables.2.weight", "other", "scale.missing", "tables.0.weights"])
def test_a_path_that_leads_nowhere_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError):
        get_state(Model(), name)
