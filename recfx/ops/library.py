"""Defines the operators of the recfx dialect for torch.

Every operator has a schema, a reference in plain torch that defines its results, a fake kernel for shapes, and a decomposition into ATen
for backends that do not know the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recfx.ir.operators import DIALECT

#: Operator -> its decomposition: the same arguments and results, computed by ATen alone.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}

_LIBRARY = torch.library.Library("recfx", "DEF")


def define(
    schema: str, reference: Callable[..., Any], fake: Callable[..., Any], decomposition: Callable[..., Any]
) -> Any:
    """Registers an operator of namespace `recfx`.

    Args:
        schema: The signature, in torch's schema language, without the namespace.
        reference: Plain torch, for every device.
        fake: Returns fake tensors of the right shapes, without reading data.
        decomposition: The same computation with operators of ATen. It is traced on fake tensors, so it does not branch on values, call
            `.item()` or loop over the batch. Ids and offsets that the reference refuses must be refused here as well, or by torch's
            operators. May be the reference.

    Returns:
        The operator's overload, as it appears as a node's target.
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"recfx::{name}", fake, lib=_LIBRARY)
    made = getattr(torch.ops.recfx, name).default
    DIALECT[made] = reference
    DECOMPOSITIONS[made] = decomposition
    return made


def differentiate(name: str, backward: Callable[..., Any], keep: Callable[..., None]) -> None:
    """Gives an operator a gradient.

    Args:
        name: The operator, without the namespace.
        backward: `(ctx, *gradients of the results) -> a gradient or None for each argument`.
        keep: `(ctx, inputs, output)`, stores in `ctx` the values that `backward` needs.
    """
    torch.library.register_autograd(f"recfx::{name}", backward, setup_context=keep, lib=_LIBRARY)


def accelerate(name: str, kernel: Callable[..., Any], device: str) -> None:
    """Gives an operator a kernel for one kind of device, which runs there instead of the reference.

    Args:
        name: The operator, without the namespace.
        kernel: Has the arguments and results of the reference.
        device: torch's dispatch key, such as "CPU".
    """
    _LIBRARY.impl(name, kernel, device)
