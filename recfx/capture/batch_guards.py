"""The tracer's decisions about the batch, read from the guards in torch's shape environment.

A guard holds for the example. A guard that fails at some batch sizes is a decision that may be wrong there: a Python branch, or a fake
kernel that tested whether a size is one. If a guard fails at few sizes, the program is compared with the model at each of them.
"""

from __future__ import annotations

import math
import traceback
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from recfx.capture.explain_export import is_users_file

#: The largest number of batch sizes to compare one by one.
_MOST_DOUBTFUL = 8
#: The number of consecutive sizes to test from the lower bound on; sizes near each number in a guard are tested as well.
_TRIED = 128
_FEWEST_ROWS = 2  # the tracer's assumption; one row is always compared


def doubtful_batches(exported: torch.export.ExportedProgram) -> tuple[int, ...] | None:
    """The batch sizes in the range of an exported program at which a guard of its trace fails.

    None when the batch is fixed, when another size varies, or when a guard fails at more sizes than can be compared.
    """
    if len(exported.range_constraints) != 1:
        return None
    ((symbol, held),) = exported.range_constraints.items()
    env = _environment(exported)
    if env is None or not isinstance(symbol, sympy.Symbol):
        return None
    simplified = [guard.expr.xreplace(env.replacements) for guard in env.guards]
    guards = [guard for guard in simplified if guard != sympy.true]
    if any(guard.free_symbols != {symbol} for guard in guards):
        return None
    if any(_is_rare(guard) for guard in guards):
        return None
    low, high = max(int(held.lower), _FEWEST_ROWS), int(min(held.upper, 2**31))
    numbers = {int(n) for guard in guards for n in guard.atoms(sympy.Integer)}
    tried = {*range(low, low + _TRIED), high, high - 1, *(n + around for n in numbers for around in (-1, 0, 1, 2))}
    failing = [
        size
        for size in sorted(tried)
        if low <= size <= high and any(g.xreplace({symbol: sympy.Integer(size)}) != sympy.true for g in guards)
    ]
    return tuple(failing) if len(failing) <= _MOST_DOUBTFUL else None


def branch_lines(error: BaseException) -> list[str]:
    """The user's lines that branch on a size, from the guards in an error of export."""
    env = _environment_of_error(error)
    found = []
    for guard in env.guards if env is not None else ():
        frame = getattr(guard.sloc, "framework_loc", None)
        if isinstance(frame, traceback.FrameSummary) and is_users_file(frame.filename):
            found.append(f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}")
    return list(dict.fromkeys(found))


def divisor_of_batch(error: BaseException) -> int:
    """The number by which a trace needs the batch to be divisible, from the guards in an error of export; 1 without such a guard.

    Ids flattened to `[61 * rows]` give `16 * s % 976 == 0` when forward takes them apart, which holds for multiples of 61.
    """
    env = _environment_of_error(error)
    steps = [_divisor(guard.expr) for guard in env.guards] if env is not None else []
    return math.lcm(*steps)


def _divisor(guard: sympy.Basic) -> int:
    if not isinstance(guard, sympy.Eq) or guard.rhs != 0 or type(guard.lhs).__name__ not in ("Mod", "PythonMod"):
        return 1
    value, modulus = guard.lhs.args
    factor, symbol = value.as_coeff_Mul()
    if not (isinstance(symbol, sympy.Symbol) and factor.is_Integer and modulus.is_Integer):
        return 1
    return int(modulus) // math.gcd(int(modulus), int(factor))


def _is_rare(guard: sympy.Basic) -> bool:
    """Whether a guard may fail at untested sizes, because it has a remainder or a quotient by a large number."""
    divided = [
        part for part in sympy.preorder_traversal(guard) if type(part).__name__ in ("Mod", "FloorDiv", "PythonMod")
    ]
    return any(abs(int(n)) > _TRIED // 2 for part in divided for n in part.args[1].atoms(sympy.Integer))


def _environment(exported: torch.export.ExportedProgram) -> ShapeEnv | None:
    for node in exported.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode.shape_env
    return None


def _environment_of_error(error: BaseException) -> ShapeEnv | None:
    """The shape environment that raised an error; None when another object raised it."""
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            owner: Any = frame.f_locals.get("self")
            if isinstance(owner, ShapeEnv):
                return owner
        seen = seen.__cause__ or seen.__context__
    return None
