"""Models that cannot be captured get advice that works: each model here is refused, and captured once its advice is followed."""

from __future__ import annotations

import statistics
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recfx
from recfx.capture import capture
from recfx.capture.explain_export import is_users_file


class Recurrent(nn.Module):
    """An LSTM with projections, over packed sequences or over the padded batch."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed, self.rnn = packed, nn.LSTM(4, 5, batch_first=True, proj_size=3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packed:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            _, state = self.rnn(packed)
            return state[0][-1]
        outputs, _ = self.rnn(x)
        return outputs[torch.arange(len(x)), lengths - 1]


class Distribution(nn.Module):
    def __init__(self, make: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.make, self.options = make, options

    def forward(self, x: Tensor) -> Tensor:
        return self.make(x, **self.options)


def normal(x: Tensor, **options: Any) -> Tensor:
    return torch.distributions.Normal(x, x.exp(), **options).log_prob(x[:, :1])


def beta(x: Tensor, **options: Any) -> Tensor:
    return torch.distributions.Beta(x.exp(), x.exp(), **options).mean


def categorical(x: Tensor, **options: Any) -> Tensor:
    return torch.distributions.Categorical(logits=x, **options).entropy()


class Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.options = nn.TransformerEncoder(layer, 1), options

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(x, mask=mask, **self.options)


class Decoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.decoder, self.options = nn.TransformerDecoder(layer, 1), options

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, x, tgt_mask=mask, **self.options)


class Array(nn.Module):
    def forward(self, x: Any) -> Tensor:
        return (torch.from_numpy(x) if isinstance(x, np.ndarray) else x) * 2


CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
LOCAL = torch.where((torch.arange(5)[:, None] - torch.arange(5)).abs() < 2, 0.0, -torch.inf)
X, TOKENS = torch.randn(4, 3), torch.randn(4, 5, 8)
SEQUENCES = (torch.randn(4, 6, 4), torch.tensor([6, 3, 2, 5]))
ARRAY = np.ones((4, 3), np.float32)

#: Refused model, its inputs, words of the advice, and the model and inputs that follow it.
ADVICE: dict[str, tuple[nn.Module, tuple[Any, ...], str, nn.Module, tuple[Any, ...]]] = {
    "packed, with projections": (
        Recurrent(True),
        SEQUENCES,
        "outputs, _ = self.rnn(x); outputs[torch.arange(len(x)), lengths - 1]",
        Recurrent(False),
        SEQUENCES,
    ),
    **{
        make.__name__: (
            Distribution(make),
            (X,),
            "validate_args=False",
            Distribution(make, validate_args=False),
            (X,),
        )
        for make in (normal, beta, categorical)
    },
    "encoder, causal": (
        Encoder(),
        (TOKENS, CAUSAL),
        "is_causal=True",
        Encoder(is_causal=True),
        (TOKENS, CAUSAL),
    ),
    "encoder, other mask": (
        Encoder(),
        (TOKENS, LOCAL),
        "is_causal=False",
        Encoder(is_causal=False),
        (TOKENS, LOCAL),
    ),
    "decoder": (
        Decoder(),
        (TOKENS, CAUSAL),
        "tgt_is_causal=",
        Decoder(tgt_is_causal=True),
        (TOKENS, CAUSAL),
    ),
    "numpy": (Array(), (ARRAY,), "torch.from_numpy(array)", Array(), (torch.from_numpy(ARRAY),)),
}


@pytest.mark.parametrize("name", ADVICE)
def test_the_advice_works(name: str) -> None:
    refused, inputs, words, mended, others = ADVICE[name]
    with pytest.raises(recfx.CaptureError) as caught:
        capture(refused.eval(), inputs)
    assert words in str(caught.value.hint)
    mended.load_state_dict(refused.state_dict())
    program = capture(mended.eval(), others)
    with torch.no_grad():
        torch.testing.assert_close(
            program.run(list(others))[0],
            refused(*inputs) if name != "numpy" else refused(*others),
            rtol=1e-4,
            atol=1e-5,
        )


class InPython(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * statistics.mean(x.flatten().tolist())  # a line of Python's own library raises


class InNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.vectorize(lambda v: v * 2)(x)).float()  # a line of NumPy raises


@pytest.mark.parametrize("model", [InPython(), InNumpy()])
def test_the_line_is_the_users(model: nn.Module) -> None:
    with pytest.raises(recfx.CaptureError) as caught:
        capture(model.eval(), (torch.rand(4, 3),))
    assert str(caught.value.where).startswith(f"{__file__}:")
    assert "raises" in str(caught.value.where)


@pytest.mark.parametrize(
    ("name", "users"),
    [
        (__file__, True),
        ("/home/me/model.py", True),
        ("/home/me/numpy/model.py", True),
        (f"{sysconfig.get_path('purelib')}/deepctr_torch/models/din.py", True),
        ("/opt/venv/lib/python3.11/site-packages/numpy/lib/x.py", False),
        (np.__file__, False),
        (statistics.__file__, False),
        (torch.__file__, False),
        (recfx.__file__, False),
        ("<string>", False),
    ],
)
def test_files_of_users(name: str, users: bool) -> None:
    assert is_users_file(name) is users
