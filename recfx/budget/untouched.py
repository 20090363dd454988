"""Detects that `evaluate` changed the model that it was given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.ir.program import dense_parts

#: Tensors of more elements are compared by this many of them, and by torch's count of writes.
_SAMPLED = 1 << 16


class Untouched:
    """The weights and the modes of a model at one moment.

    Integer buffers, such as counters of calls, may change.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._state = dict(_described(model))
        self._modes = {name: module.training for name, module in model.named_modules()}

    def require(self) -> None:
        """Checks that nothing changed.

        Raises:
            InputError: Weights or modes changed.
        """
        now = dict(_described(self._model))
        changed = [name for name in {**self._state, **now} if self._state.get(name) != now.get(name)]
        if changed:
            raise InputError(
                f"evaluate changed the model: {', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''}",
                where=type(self._model).__name__,
                hint="restore the weights, and let evaluate only call the model, or work on a copy: copy.deepcopy(model)",
            )
        modes = [name for name, module in self._model.named_modules() if self._modes.get(name) != module.training]
        if modes:
            mode = "train" if self._model.get_submodule(modes[0]).training else "eval"
            raise InputError(
                f"evaluate left {modes[0] or 'the model'} in {mode} mode",
                where=type(self._model).__name__,
                hint="call model.eval(), and let evaluate restore the mode that it found",
            )


def require_finite(model: nn.Module) -> None:
    """Checks the weights of a model.

    Raises:
        InputError: A weight is NaN or infinite.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.layout is torch.strided and not bool(tensor.detach().isfinite().all()):
            raise InputError(
                "a weight has NaN or infinities, so that the harm of compressing it cannot be measured",
                where=name,
                hint="repair the checkpoint, or optimize without budget=",
            )


def _described(model: nn.Module) -> Iterator[tuple[str, tuple[object, ...]]]:
    for name, parameter in model.named_parameters():
        yield name, _of(parameter)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            yield name, _of(buffer)


def _of(tensor: Tensor) -> tuple[object, ...]:
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.dtype, tuple(tensor.shape), version, *(_digest(part) for part in dense_parts(tensor))


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    step = max(flat.numel() // _SAMPLED, 1)
    held = flat[::step].contiguous().cpu().view(torch.uint8)
    return hashlib.blake2b(held.numpy().tobytes(), digest_size=8).hexdigest()
