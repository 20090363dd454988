"""Calls that the generated entry of a compiled model refuses: inputs to convert, batches of other sizes, and tracing.

This code runs after the checks of the entry, so that calls with fitting inputs do not pay for it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.driver.batch_parts import run_in_parts, run_without_rows
from recfx.driver.diagnose import diagnose
from recfx.driver.input_casts import cast_inputs
from recfx.driver.parts import Parts
from recfx.errors import InputError
from recfx.ir.shapes import BATCH
from recfx.ir.signature import Signature
from recfx.ops.library import DECOMPOSITIONS


def run_unusual(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception, *, lossy: bool) -> Any:
    """The result of a call that the entry refused, or the error that says what is wrong with it.

    Args:
        parts: The compiled model.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        error: The error that the entry raised.
        lossy: See `cast_inputs`.

    Raises:
        RecfxError: The inputs do not fit.
    """
    signature = parts.program.signature
    values = cast_inputs(signature, args, kwargs, lossy=lossy)
    if values is not None:
        args, kwargs = signature.split(values)
        try:
            return parts.entry(*args, **kwargs)
        except Exception as again:  # noqa: BLE001 - raised below, with its cause if that can be found
            error = again
    batch = _unusual_batch(signature, args, kwargs)
    if batch is None:
        raise diagnose(parts.program_for(args, kwargs), args, kwargs, error) from error
    leaves, sizes = batch
    rows, most = sizes[BATCH], signature.dims[BATCH][1]
    try:
        outputs = run_in_parts(parts, leaves, rows, most) if rows and most else run_without_rows(parts, leaves, sizes)
    except InputError:
        raise
    except Exception as problem:
        raise diagnose(parts.program, args, kwargs, problem) from problem
    return signature.unflatten(outputs)


def _unusual_batch(
    signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, int]] | None:
    """Flat inputs and sizes of a call whose only fault is a batch of 0 or above the largest; None for other batches.

    Raises:
        InputError: An input does not fit for another reason.
    """
    if BATCH not in signature.dims:
        return None
    free = free_of_limits(signature, 0)
    leaves = free.flatten(args, kwargs)
    sizes = free.check(leaves)
    rows, most = sizes.get(BATCH), signature.dims[BATCH][1]
    return (leaves, sizes) if rows == 0 or (rows and most and rows > most) else None


def free_of_limits(signature: Signature, low: int) -> Signature:
    """The signature with a batch from `low` on, without an upper limit."""
    return dataclasses.replace(signature, dims={**signature.dims, BATCH: (low, None)})


def is_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `torch.export` records this call. Another thread may export while this thread computes."""
    from torch._subclasses.fake_tensor import FakeTensor

    if torch.compiler.is_dynamo_compiling():
        return True
    return any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves((args, kwargs)))


def run_traced(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the program with torch's operators only, while a tracer such as `torch.export` records it.

    Args:
        parts: The compiled model.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.

    Raises:
        InputError: The inputs do not fit.
    """
    if torch.compiler.is_dynamo_compiling():
        # An exception that the tracer can construct, so that the user sees its text.
        raise RuntimeError(
            "torch.export with strict=True cannot record a compiled model: use strict=False, its default"
        )
    traced = parts
    if parts.one_row is not None:
        traced = parts if parts.program_for(args, kwargs) is parts.program else parts.one_row
    signature = traced.program.signature
    if BATCH in signature.dims:
        signature = free_of_limits(signature, signature.dims[BATCH][0])
    leaves = signature.flatten(args, kwargs)
    signature.check(leaves)
    return signature.unflatten(list(_InTorch(traced.program.module).run(*leaves)))


class _InTorch(fx.Interpreter):
    """Runs a program with torch's operators only."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_function(DECOMPOSITIONS.get(target, target), args, kwargs)
