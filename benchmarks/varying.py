"""Counts the operators that depend only on a request's inputs, so that all their rows are equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary


class Varying(TorchDispatchMode):
    """Follows a request's inputs and the candidates' through a model, operator by operator.

    Args:
        request: Inputs whose rows are all equal.
        candidates: The other inputs.

    Attributes:
        equal_flops: Floating-point operations of the matrix products that depend on the request's inputs and not on the
            candidates'.
    """

    def __init__(self, request: Iterable[Tensor], candidates: Iterable[Tensor]) -> None:
        super().__init__()
        self.equal_flops = 0
        self._reached = WeakIdKeyDictionary()  # tensor -> whether its rows may differ
        for values, differ in ((request, False), (candidates, True)):
            for value in values:
                self._reached[value] = differ

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        differs = [self._reached[leaf] for leaf in given if leaf in self._reached]
        if differs:
            written = given[:1] if func._schema.is_mutable else []
            for leaf in (*pytree.tree_leaves(out), *written):
                if isinstance(leaf, Tensor):
                    self._reached[leaf] = any(differs)
            if not any(differs) and func.overloadpacket in flop_registry:
                self.equal_flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        return out
