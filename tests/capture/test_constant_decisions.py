"""Capture evaluates branches of forward on the model's own buffers, parameters and masks; it refuses branches on
inputs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture
from recfx.errors import CaptureError

IDS = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6], [7, 8, 1]])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(3)


class Decides(nn.Module):
    """An embedding, and a branch on values of the model's state."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.table = nn.Embedding(9, 3)
        self.register_buffer("flag", torch.tensor(0.5))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("sizes", torch.tensor([1, 2]))
        self.cache = None

    def forward(self, ids):
        return self.rule(self, self.table(ids))


def _cached(model, x):
    if model.cache is None:
        model.cache = model.table.weight.abs().max().item()
    return x * model.cache


RULES = {
    "if a buffer": lambda m, x: x if m.flag > 0 else -x,
    "if all": lambda m, x: x if (m.order == m.order).all() else -x,
    "if a parameter": lambda m, x: x / (m.table.weight.norm() if m.table.weight.abs().max() > 0.1 else 1.0),
    "while": lambda m, x: [x := x * 0.5 for _ in range(int(m.sizes.max()))][-1],
    "item": lambda m, x: x * m.flag.item() + int(m.order[0]),
    "float": lambda m, x: x * float(m.flag * 3),
    "tolist": lambda m, x: torch.stack([x[..., i] for i in m.order.tolist()], -1),
    "split": lambda m, x: torch.split(x, m.sizes.tolist(), -1)[1].sum(1),
    "size": lambda m, x: x[:, : m.sizes[1].item()].reshape(-1, int(m.sizes[1]) * 3),
    "equal": lambda m, x: x if torch.equal(m.order, m.order.flip(0)) else x + 1,
    "allclose": lambda m, x: x if torch.allclose(m.flag, m.flag + 1e-9) else x + 1,
    "not": lambda m, x: x if not m.flag else x + 2,
    "a mask of its own": lambda m, x: x + 1 if torch.ones(3, 3).tril().bool().any() else x,
    "twice in a loop": lambda m, x: sum(x * i for i in range(3) if m.order[i] > 0),
    "cached": _cached,
}


@pytest.mark.parametrize("name", RULES)
def test_decisions_on_the_state_are_taken_at_capture(name):
    model = Decides(RULES[name]).eval()
    program = capture(model, (IDS,))
    assert not any("strict export" in notice for notice in program.notices)
    assert not any("aten.item" in str(node.target) for node in program.graph.nodes), "no number is read at a call"
    assert model.cache is None
    for ids in (IDS, IDS[:1], IDS.repeat(5, 1)):
        torch.testing.assert_close(program(ids), model(ids))
        model.cache = None


class Encoder(nn.Module):
    """Encoders test whether a mask is causal by comparing its values."""

    def __init__(self, **masks):
        super().__init__()
        self.table = nn.Embedding(9, 4, padding_idx=0)
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("mask", masks.get("mask"))

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1]) if self.mask is None else self.mask
        return self.encoder(self.table(ids), mask=mask)[:, -1]


@pytest.mark.parametrize(
    "mask", [None, CAUSAL, CAUSAL < 0, torch.eye(3).bool()], ids=["made", "float", "bool", "other"]
)
def test_encoders_take_masks(mask):
    model = Encoder(mask=mask).eval()
    fast = recfx.optimize(model, "native", example_inputs=IDS, measure=False)
    assert not fast.report.left_to_torch
    for ids in (IDS, IDS[:1], IDS.repeat(5, 1)):
        torch.testing.assert_close(fast(ids), model(ids), rtol=1e-4, atol=1e-5)


INPUT_RULES = {
    "if": lambda m, x: x if x.sum() > 0 else -x,
    "through a buffer": lambda m, x: x if m.flag.clone().copy_(x.sum()) > 0 else -x,
    "through a view": lambda m, x: (w := torch.zeros(3), w[:1].add_(x.sum()), x if w.sum() > 0 else -x)[2],
    "loop": lambda m, x: sum(x[:, 0] * i for i in range(int(x.abs().max()) + 2)),
    "through a number": lambda m, x: x if torch.scalar_tensor(x.sum().item()) > 0 else -x,
    "through a list of numbers": lambda m, x: x if torch.tensor([x.sum().item(), 0.0]).max() > 0 else -x,
    "through a number beside the state": lambda m, x: x if (m.flag * x.sum().item()).sum() > 0 else -x,
    "through a filled tensor": lambda m, x: x if torch.full((2,), x.sum().item()).sum() > 0 else -x,
    "random": lambda m, x: x if torch.rand(1) > 0.5 else -x,
    "the batch": lambda m, x: x if torch.zeros(x.shape[0]).add(1).sum() > 3 else -x,
}


@pytest.mark.parametrize("name", INPUT_RULES)
def test_decisions_on_inputs_are_refused(name):
    with pytest.raises(CaptureError):
        capture(Decides(INPUT_RULES[name]).eval(), (IDS,))


def test_a_change_of_what_was_decided_on_is_noticed():
    model = Decides(RULES["if a buffer"]).eval()
    fast = recfx.optimize(model, example_inputs=IDS, measure=False)
    before = fast(IDS)
    model.flag.fill_(-1.0)
    with pytest.warns(UserWarning, match=r"refresh\(\)"):
        _ = [fast(IDS) for _ in range(4)]
    fast.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fast(IDS), -before)
