"""Capture: torch's own modules, regions of autocast and no_grad, and torch.export's examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from capture_cases import rand, same
from torch import nn

from recfx.capture import capture
from recfx.errors import CaptureError, RecfxError


class Regions(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.linear = nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        if self.kind == "no_grad":
            with torch.no_grad():
                y = self.linear(x)
            return y * 2
        if self.kind == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
                z = torch.softmax(self.linear(y), -1)
            return z.float() + x
        if self.kind == "nested off":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
                with torch.autocast("cpu", enabled=False):
                    y = self.linear(y.float())
                y = self.linear(y)
            return y
        if self.kind == "grad inside autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                y = self.linear(x) @ x.t()
            return y.float().sum(1)
        if self.kind == "cat and bmm":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = torch.cat([self.linear(x), x], 1)
                return torch.bmm(y.unsqueeze(1), y.unsqueeze(2)).squeeze(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.nn.functional.scaled_dot_product_attention(x[None], x[None], self.linear(x)[None])


@pytest.mark.parametrize("kind", ["no_grad", "bf16", "nested off", "grad inside autocast", "cat and bmm"])
def test_region_is_inlined_with_the_same_bits(kind: str) -> None:
    model = Regions(kind).eval()
    program = capture(model, (rand(4, 6),))
    assert not [n for n in program.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)]
    for batch in (1, 3):
        same(model, program, rand(batch, 6, seed=batch))


def test_autocast_inside_a_composite_operator_is_refused() -> None:
    with pytest.raises(CaptureError, match="composite operator") as caught:
        capture(Regions("composite").eval(), (rand(4, 6),))
    assert "test_capture_modules.py" in str(caught.value.where)


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell(4, 5, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, key_padding_mask=x[:, :, 0] > 5)


def _encoder(fast: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=fast)


def _weight_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU())


class SharedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Linear(4, 4)

    def forward(self, x):
        return self.tower(torch.relu(self.tower(x)))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 2, 2)

    def forward(self, x):
        return self.conv(x).amax(2)


MODULES = {
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "MultiheadAttention": Attention,
    "TransformerEncoder, fast path": lambda: _encoder(True),
    "TransformerEncoder, plain": lambda: _encoder(False),
    "weight_norm": _weight_norm,
    "shared submodule": SharedTwice,
    "Conv1d": Convolutions,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_torch_module(name: str) -> None:
    model = MODULES[name]().eval()
    program = capture(model, (rand(4, 3, 4),))
    assert program.signature.dims == {"batch": (1, 65536)}
    for batch in (1, 2, 6):
        x = rand(batch, 3, 4, seed=batch)
        want, got = model(x), program(x)
        for a, b in zip(*map(torch.utils._pytree.tree_leaves, (want, got)), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def _export_examples() -> list[Any]:
    from torch._export.db.examples import all_examples

    return sorted(all_examples().items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "example"), _export_examples(), ids=lambda v: v if isinstance(v, str) else "")
def test_torch_export_corpus(name: str, example: Any) -> None:
    """A model is captured with equal outputs, or raises a RecfxError; it never raises another exception."""
    model = example.model.eval()
    try:
        program = capture(model, example.example_args, example.example_kwargs, dynamic_shapes=example.dynamic_shapes)
    except RecfxError as error:
        assert error.what  # noqa: PT017
    else:
        same(model, program, *example.example_args, **example.example_kwargs)
