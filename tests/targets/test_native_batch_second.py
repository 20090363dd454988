"""Tensors whose batch is not the first dimension: nn.MultiheadAttention, transformer layers, rows of one matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_kit import LEVELS, Module, generator, needs_kernels, partition
from torch import nn

import recfx.passes  # noqa: F401 - registers the passes
from recfx.capture import capture
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.targets.native.values import Dim, Value, reshape

pytestmark = needs_kernels

L, E = 5, 8


class _Attention(nn.Module):
    """nn.MultiheadAttention over [B, L, E], with the masks of sequence models."""

    def __init__(self, *, batch_first: bool, causal: str = "", weights: bool = False, average: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, 2, batch_first=batch_first)
        self.batch_first, self.causal, self.weights, self.average = batch_first, causal, weights, average

    def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> Any:
        mask = None
        if self.causal:
            mask = torch.triu(torch.ones(L, L, dtype=torch.bool), 1)
            mask = torch.zeros(L, L).masked_fill(mask, -1e9) if self.causal == "float" else mask
        x = x if self.batch_first else x.transpose(0, 1)
        found, weights = self.attention(
            x,
            x,
            x,
            key_padding_mask=padding,
            attn_mask=mask,
            need_weights=self.weights,
            average_attn_weights=self.average,
        )
        found = found if self.batch_first else found.transpose(0, 1)
        return (found, weights) if self.weights else found


class _Layers(nn.Module):
    """A transformer's layers over [B, L, E]."""

    def __init__(self, layers: nn.Module, *, batch_first: bool, mask: str = "") -> None:
        super().__init__()
        self.layers, self.batch_first, self.mask = layers, batch_first, mask

    def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        given: dict[str, Any] = {} if padding is None else {"src_key_padding_mask": padding}
        if self.mask:
            given[self.mask] = torch.triu(torch.ones(L, L, dtype=torch.bool), 1)
        found: torch.Tensor = self.layers(x if self.batch_first else x.transpose(0, 1), **given)
        return found if self.batch_first else found.transpose(0, 1)


def _check(model: nn.Module, inputs: list[torch.Tensor]) -> None:
    """The whole model in plans, at every level, for several batches, one row included."""
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()))
    program = Pipeline("canonicalize,fold-constants").run(capture(model, tuple(inputs), {})).program
    for level in {LEVELS[0], LEVELS[-1]}:  # the steps are the same at every level
        made = partition(program, level)
        assert not made.refused, {n.name: reason for n, reason in made.refused.items()}
        run = flat_function(made.region)
        for rows in (len(inputs[0]), 1, 3):
            part = [x[:rows] for x in inputs]
            expected = model(*part)
            for one, other in zip(run(*part), expected if isinstance(expected, tuple) else (expected,), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def _inputs(*, padded: bool) -> list[torch.Tensor]:
    x = torch.randn(4, L, E, generator=generator(1))
    padding = torch.arange(L) >= torch.tensor([5, 3, 4, 1])[:, None]
    return [x, padding] if padded else [x]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", ["", "bool", "float"])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_attention(batch_first: bool, weights: bool, causal: str, padded: bool) -> None:
    _check(_Attention(batch_first=batch_first, causal=causal, weights=weights), _inputs(padded=padded))


@pytest.mark.parametrize("batch_first", [False, True])
def test_weights_of_every_head(batch_first: bool) -> None:
    _check(_Attention(batch_first=batch_first, weights=True, average=False), _inputs(padded=False))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder_layers(batch_first: bool, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(E, 2, 16, activation="gelu", batch_first=batch_first, norm_first=norm_first)
    _check(_Layers(layer, batch_first=batch_first), _inputs(padded=True))
    _check(_Layers(layer, batch_first=batch_first, mask="src_mask"), _inputs(padded=False))
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    _check(_Layers(encoder, batch_first=batch_first), _inputs(padded=True))


@pytest.mark.parametrize("batch_first", [False, True])
def test_decoder_layer(batch_first: bool) -> None:
    layer = nn.TransformerDecoderLayer(E, 2, 16, batch_first=batch_first)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            mask = torch.triu(torch.ones(L, L, dtype=torch.bool), 1)
            if batch_first:
                return self.layer(x, memory, tgt_mask=mask)
            return self.layer(x.transpose(0, 1), memory.transpose(0, 1), tgt_mask=mask).transpose(0, 1)

    rng = generator(2)
    _check(Decoder(), [torch.randn(4, L, E, generator=rng), torch.randn(4, 3, E, generator=rng)])


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_to_another_sequence(batch_first: bool) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(E, 2, kdim=6, vdim=6, add_bias_kv=True, batch_first=batch_first)

        def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            if batch_first:
                return self.attention(x, memory, memory)[0]
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
            return self.attention(x, memory, memory)[0].transpose(0, 1)

    rng = generator(3)
    _check(Cross(), [torch.randn(4, L, E, generator=rng), torch.randn(4, 3, 6, generator=rng)])


@pytest.mark.parametrize("betas", [{}, {"beta": 0.5, "alpha": 2}, {"beta": 0}])
def test_products_added(betas: dict[str, float]) -> None:
    rng = generator(4)
    x, y = torch.randn(4, 5, 3, generator=rng), torch.randn(4, 5, 5, generator=rng)
    _check(Module(lambda x, y: torch.baddbmm(y, x, x.transpose(1, 2), **betas)), [x, y])
    _check(Module(lambda x, b, w: torch.addmm(b, x[:, 0], w, **betas), [torch.randn(7), torch.randn(3, 7)]), [x])


def test_the_batch_inside_a_dimension() -> None:
    """[L, B, E] as rows of one matrix, through layers, activations and sums, and back."""
    rng = generator(5)
    w, v = torch.randn(E, E, generator=rng), torch.randn(E, generator=rng)

    def through(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        rows = x.transpose(0, 1).reshape(-1, E)
        hidden = torch.nn.functional.linear(rows, w, v).relu() * v + rows
        return torch.nn.functional.layer_norm(hidden, (E,), v).view(length, -1, E).transpose(0, 1)

    _check(Module(through, [w, v]), _inputs(padded=False))


def _both(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).reshape(-1, E) + x.reshape(-1, E)


def test_batches_that_lie_differently_are_not_mixed() -> None:
    """A kernel does not take operands whose rows are in different orders. torch adds them."""
    x = _inputs(padded=False)[0]
    program = Pipeline("canonicalize").run(capture(Module(_both).eval(), (x,), {})).program
    made = partition(program, LEVELS[0])
    assert made.refused
    run = flat_function(made.region)
    for rows in (4, 1, 3):
        torch.testing.assert_close(run(x[:rows])[0], _both(x[:rows]))


def test_reshapes_say_where_the_batch_lies() -> None:
    value = Value(0, 0, (Dim(3, 4), Dim(1, 12, True), Dim(4, 1)))
    merged = reshape(value, [Dim(3, 0, True), Dim(4, 0)])
    assert merged is not None
    assert (merged.dims[0].before, merged.mixed) == (3, True)
    back = reshape(merged, [Dim(3, 0), Dim(1, 0, True), Dim(4, 0)])
    assert back is not None
    assert not back.mixed
    assert reshape(value, [Dim(1, 0, True), Dim(12, 0)]) is None
