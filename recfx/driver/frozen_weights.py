"""`FrozenWeights`: the weights of a compiled program as parameters and buffers of an `nn.Module`.

A compiled program also holds packed copies of its weights. Writing to a parameter would therefore change only some of the weights that are
used. All methods by which torch changes a module in place raise an error, unless they change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self

import torch
from torch import nn

from recfx.errors import InputError


class FrozenWeights(nn.Module):
    """A module in eval mode whose weights, device and dtypes are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def hold_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replaces the parameters and buffers by tensors, whose memory is shared.

        Args:
            tensors: Dotted name -> tensor.
        """
        self._parameters.clear()
        self._buffers.clear()
        self._modules.clear()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                owner = owner._modules.setdefault(part, FrozenWeights())  # type: ignore[assignment]
            if isinstance(tensor, nn.Parameter):
                owner._parameters[last] = nn.Parameter(tensor.detach(), requires_grad=False)
            else:
                owner._buffers[last] = tensor.detach()

    def exchange_weight(self, name: str, tensor: torch.Tensor) -> None:
        """Gives a parameter or buffer the memory of another tensor of the same size.

        Args:
            name: Of one of the tensors given to `hold_weights`.
            tensor: What it shares memory with from now on.
        """
        *path, last = name.split(".")
        owner: Any = self
        for part in path:
            owner = owner._modules[part]
        held = owner._parameters.get(last)
        (owner._buffers[last] if held is None else held).data = tensor.detach()

    def train(self, mode: bool = True) -> Self:
        """Does nothing for `mode=False`.

        Raises:
            InputError: `mode` is True.
        """
        if mode:
            raise InputError(
                "a compiled model cannot be trained: it computes in inference mode with fixed weights",
                where="train(True)",
                hint="train your own model, then call refresh(model) on the compiled one; in a larger module, "
                "set train() on the other parts",
            )
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Does nothing for False.

        Raises:
            InputError: `requires_grad` is True.
        """
        if requires_grad:
            raise InputError(
                "a compiled model gives no gradients: it computes in inference mode",
                where="requires_grad_(True)",
                hint="train your own model, then call refresh(model) on the compiled one",
            )
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Checks conversions by `to`, `cpu`, `cuda`, `half`, `float` and others, which all call this method. It never converts.

        Raises:
            InputError: Tensors would move to another device, or change their dtype.
        """
        kinds = {(t.dtype, t.device) for t in [*self.parameters(), *self.buffers()]}
        for dtype, device in kinds or {(torch.float32, torch.device("cpu"))}:
            made = _tried(fn, torch.empty(0, dtype=dtype, device=device))
            if made.device != device:
                raise InputError(
                    f"a compiled model stays on the device that it was optimized for: {device}, not {made.device}",
                    where=f"to({str(made.device)!r})",
                    hint=f"move your own model there and optimize it again; move inputs with .to({str(device)!r})",
                )
            if made.dtype is not dtype:
                raise InputError(
                    f"the dtype of a compiled model's weights is fixed: {dtype} would become {made.dtype}",
                    where=f"to({made.dtype})",
                    hint="optimize with precision='bf16' or 'int8', or optimize a model of that dtype",
                )
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Accepts values equal to those of the module, and reports other values as an error of `load_state_dict`."""
        own = {**self._parameters, **self._buffers}
        names = {key: key.removeprefix(prefix).partition(".")[0] for key in state_dict if key.startswith(prefix)}
        missing_keys.extend(prefix + name for name in own if prefix + name not in state_dict)
        unexpected_keys.extend(key for key, name in names.items() if name not in own and name not in self._modules)
        differ = [name for name, tensor in own.items() if not _same(tensor, state_dict.get(prefix + name, tensor))]
        error_msgs.extend(
            f"{prefix}{name}: weights of a compiled model are fixed, and the given ones differ." for name in differ
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Accepts values equal to those of the module.

        Raises:
            InputError: Names or values differ.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            raise InputError(
                f"the weights of a compiled model are fixed: {error}",
                hint="load them into your own model, then call refresh(model) on the compiled one",
            ) from error

    def _refuse_hook(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: calls of a compiled model run no hooks."""
        raise InputError(
            "a compiled model runs no hooks: its layers are fused, and a call takes microseconds",
            hint="put it into an nn.Sequential, and register the hook there",
        )

    register_forward_hook = register_forward_pre_hook = _refuse_hook
    register_full_backward_hook = register_full_backward_pre_hook = _refuse_hook


def _tried(fn: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor) -> torch.Tensor:
    """The result of a conversion of an empty tensor."""
    try:
        return fn(probe)
    except Exception as error:
        raise InputError(
            f"a compiled model stays on the device that it was optimized for ({probe.device}), and torch cannot convert "
            f"its weights: {error}",
            hint="move your own model to its device and optimize it there",
        ) from error


def _same(tensor: torch.Tensor | None, given: Any) -> bool:
    if tensor is None or given is tensor:
        return given is tensor
    if not isinstance(given, torch.Tensor) or given.shape != tensor.shape or given.dtype is not tensor.dtype:
        return False
    if tensor.layout is not torch.strided or given.layout is not torch.strided:
        return given.layout is tensor.layout and _same(tensor.to_dense(), given.to_dense())
    if tensor.device != given.device:
        return False
    equal = torch.equal(tensor, given)
    return equal or bool(((tensor == given) | ((tensor != tensor) & (given != given))).all())
