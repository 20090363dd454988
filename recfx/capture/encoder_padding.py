"""Padding in `nn.TransformerEncoder`, as torch computes it without gradients.

In eval mode and without gradients, if every row is padded at its end, the encoder computes rows without their padding ("nested tensors")
and fills the padding with zeros. A tracer does not see this fast path. Within `padded_with_zeros`, the encoder runs its ordinary path and
sets the padding of each row that is padded at its end to zero. torch decides for a whole batch: one row with padding elsewhere turns the
fast path off, and the padding of all rows then holds other numbers, which no key attends to. This module decides for each row.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_lock = threading.RLock()


@contextmanager
def padded_with_zeros() -> Iterator[None]:
    """A context in which encoders do not use torch's fast path but fill padding as it does; one thread at a time."""
    with _lock:
        own = nn.TransformerEncoder.forward
        if hasattr(own, "recfx_padded"):
            yield
            return
        enabled = torch.backends.mha.get_fastpath_enabled()
        nn.TransformerEncoder.forward = _padded(own)  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            nn.TransformerEncoder.forward = own  # type: ignore[method-assign]
            torch.backends.mha.set_fastpath_enabled(enabled)


def _padded(own: Callable[..., torch.Tensor]) -> Any:
    """A forward of encoders that fills padding with zeros."""

    @functools.wraps(own)  # export reads the parameter names if the model itself is an encoder
    def forward(self: nn.TransformerEncoder, *args: Any, **kwargs: Any) -> torch.Tensor:
        padding = _zeroed_padding(self, *args, **kwargs)
        if padding is None:
            return own(self, *args, **kwargs)
        norm, self.norm = self.norm, None
        try:
            output = own(self, *args, **kwargs)
        finally:
            self.norm = norm
        output = output.masked_fill(padding.unsqueeze(-1), 0.0)
        return output if norm is None else norm(output)

    forward.recfx_padded = True  # type: ignore[attr-defined]
    return forward


def _zeroed_padding(
    encoder: nn.TransformerEncoder,
    src: torch.Tensor,
    mask: torch.Tensor | None = None,
    src_key_padding_mask: torch.Tensor | None = None,
    is_causal: bool | None = None,
) -> torch.Tensor | None:
    """The positions that the fast path fills with zeros, bool [batch, length]; None when torch cannot use the fast path."""
    if src_key_padding_mask is None or mask is not None or src.dim() != 3 or encoder.layers[0].training:
        return None
    if not getattr(encoder, "use_nested_tensor", False):
        return None
    padding = src_key_padding_mask
    if padding.dtype is not torch.bool:
        padding = padding != 0  # a floating-point mask is added to the scores: 0 leaves a key visible
    if padding.shape[1] == 1:
        return padding
    elsewhere = (padding[:, :-1] & ~padding[:, 1:]).any(1, keepdim=True)
    return padding & ~elsewhere


def attends(model: nn.Module) -> bool:
    """Whether a model has modules for which torch may use its fast path."""
    kinds = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    return any(isinstance(module, kinds) for module in model.modules())
