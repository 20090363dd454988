"""Questions of a model about the autograd history, the memory and the number of elements of tensors, during a trace.

`TraceNodes` makes tensors without autograd history and without bytes, and does not compute numbers of elements that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recfx.capture.trace_nodes import TraceNodes

_Tensor: Any = torch.Tensor
_REQUIRES_GRADIENT = _Tensor.requires_grad.__get__
#: Functions that read the autograd history, or the bytes of a tensor, which `TraceNodes` does not keep either.
_HISTORY = frozenset(
    {
        *(_Tensor.grad_fn.__get__, _Tensor.is_leaf.__get__, _Tensor._base.__get__, _Tensor._version.__get__),
        *(_Tensor.output_nr.__get__, _Tensor._is_view, _Tensor.backward, _Tensor.register_hook, _Tensor.retain_grad),
        *(_Tensor.retains_grad.__get__, torch.autograd.grad, torch.autograd.backward),
        *(_Tensor.untyped_storage, _Tensor.storage, _Tensor.data_ptr),
    }
)
_NUMBERS = frozenset({_Tensor.numel, _Tensor.nelement, torch.numel, _Tensor.nbytes.__get__, _Tensor.storage_offset})


class NeedsPlainTrace(Exception):
    """The model reads the autograd history or the memory of a tensor, which only a plain trace has."""


class TraceFunctions:
    """Answers of torch functions that depend on more than `TraceNodes` keeps.

    Attributes:
        refused: Whether the model asked a question that only a plain trace can answer.
    """

    def __init__(self, nodes: TraceNodes) -> None:
        self._nodes = nodes
        self.refused = False

    def call(self, own: Callable[..., Any], mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Calls a torch function.

        Args:
            own: The tracer's handling of torch functions.
            mode: The tracer's mode for torch functions.
            func: The function.
            types: Types of the tensors among the arguments.
            args: Positional arguments.
            kwargs: Keyword arguments.

        Raises:
            NeedsPlainTrace: The model reads the autograd history or the memory of a tensor.
        """
        if func in _HISTORY:
            self.refused = True
            raise NeedsPlainTrace(f"the model calls {func}")
        if func in _NUMBERS:
            self._nodes.count(args[0])
        elif func == _REQUIRES_GRADIENT:
            return self._nodes.requires_gradient(args[0])
        return own(mode, func, types, args, kwargs)
