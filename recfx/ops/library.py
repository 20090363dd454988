"""Defines the operators of the recfx dialect for torch.

Every operator has a schema, a reference in plain torch that defines its results, a fake kernel for shapes, and a decomposition into ATen
for backends that do not know the operator. Its gradient is that of its reference, unless the operator declares another one or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recfx.errors import InputError
from recfx.ir.operators import DIALECT

#: Operator -> its decomposition: the same arguments and results, computed by ATen alone.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}

#: Values of `define`'s `gradient`: the gradient is that of the reference, or the operator's file declares it with `differentiate`.
OF_REFERENCE, DECLARED = "reference", "declared"

#: Operator -> `OF_REFERENCE`, `DECLARED`, or the reason why it has no gradient.
GRADIENTS: dict[Any, str] = {}

_LIBRARY = torch.library.Library("recfx", "DEF")


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    decomposition: Callable[..., Any],
    *,
    gradient: str = OF_REFERENCE,
) -> Any:
    """Registers an operator of namespace `recfx`.

    Args:
        schema: The signature, in torch's schema language, without the namespace.
        reference: Plain torch, for every device.
        fake: Returns fake tensors of the right shapes, without reading data.
        decomposition: The same computation with operators of ATen. It is traced on fake tensors, so it does not branch on values, call
            `.item()` or loop over the batch. Ids and offsets that the reference refuses must be refused here as well, or by torch's
            operators. May be the reference.
        gradient: `OF_REFERENCE`, `DECLARED`, or a sentence that says why the operator has no gradient.

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
    GRADIENTS[made] = gradient
    if gradient != DECLARED:
        kernel = _traced if gradient == OF_REFERENCE else _refused
        _LIBRARY.impl(name, kernel(made, reference, decomposition), "Autograd", with_keyset=True)
    return made


def _traced(made: Any, reference: Callable[..., Any], decomposition: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel above autograd, which runs the reference operator by operator if a gradient is asked for.

    No value is computed twice, and double backward passes work. Tensors without data, as in the trace of a compiler, take the
    decomposition, which needs no values.
    """

    def kernel(keyset: Any, *args: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            with torch._C._AutoDispatchBelowAutograd():
                return made.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        args, _ = torch._library.utils.fill_defaults(made._schema, args, {})
        plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in _tensors(args))
        return (reference if plain else decomposition)(*args)

    return kernel


def _refused(made: Any, reference: Callable[..., Any], decomposition: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel above autograd of an operator without a gradient: a backward pass through it is an error."""

    def kernel(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            result = made.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        return without_gradient(result, _tensors(args), f"{made.name()} has no gradient: {GRADIENTS[made]}")

    return kernel


def without_gradient(result: torch.Tensor, inputs: list[torch.Tensor], reason: str) -> torch.Tensor:
    """A result through which a backward pass is an error, where one of the inputs has a gradient.

    Args:
        result: The result, without autograd history.
        inputs: What it was computed from.
        reason: The text of the error.
    """
    if not (torch.is_grad_enabled() and any(given.requires_grad for given in inputs)):
        return result
    found: torch.Tensor = _NoGradient.apply(reason, result, *inputs)
    return found


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reason: str, result: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.reason = reason
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise InputError(
            ctx.reason, hint="train the program before passes store it in fewer bits, or call it under torch.no_grad()"
        )


def _tensors(args: Any) -> list[torch.Tensor]:
    """The tensors among the arguments of an operator and in their lists."""
    flat = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else (arg,))]
    return [item for item in flat if isinstance(item, torch.Tensor)]


def differentiate(name: str, backward: Callable[..., Any], keep: Callable[..., None]) -> None:
    """Gives an operator, defined with `gradient=DECLARED`, a gradient.

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
