"""Finds out why a call of a compiled model failed: bad arguments, ids outside their table, or another cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recfx.driver.lookup_check import LookupCheck
from recfx.errors import IdError, InputError, RecfxError
from recfx.ir.program import Program


def diagnose(program: Program, args: Sequence[Any], kwargs: dict[str, Any], error: Exception) -> Exception:
    """The error to raise in place of `error`, which names the faulty input if that can be found.

    Args:
        program: The program that ran.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments.
        error: The error that the call raised.
    """
    if isinstance(error, IdError):
        return _with_table(program, args, kwargs, error)
    if isinstance(error, RecfxError):
        return error
    try:
        leaves = program.signature.flatten(args, kwargs)
        program.signature.check(leaves)
    except InputError as problem:
        return problem
    found = LookupCheck(program).find(leaves)
    return found or InputError(
        f"the model fails on these inputs: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        hint="check that values such as ids, lengths and offsets fit each other, and call your own model with these inputs",
    )


def _with_table(program: Program, args: Sequence[Any], kwargs: dict[str, Any], error: IdError) -> InputError:
    """The error of a backend for a bad id, extended by the table and the column if the program gives them."""
    try:
        found = LookupCheck(program).find(program.signature.flatten(args, kwargs))
    except InputError:
        return error
    return error if found is None else IdError(f"{error.what}; {found.what}", where=found.where, hint=found.hint)
