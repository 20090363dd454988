"""A program's outputs in float64, and the change that rounding to float32 can make in them.

Rounding errors grow with the magnitude of the summands, not of the sum: the difference of equal numbers is 0, but its rounding error is
not. To estimate the error, the program runs again with each operand and result of its arithmetic moved by a last bit of float32, up or
down at random.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from recfx.ir.float64_bags import BAGS, with_read_rows
from recfx.ir.formulas import FORMULAS
from recfx.ir.lookup_ops import reads_as_table
from recfx.ir.operators import DIALECT
from recfx.ir.program import Program
from recfx.ir.rounding import RoundingNoise, is_float, rounds
from recfx.ir.run_graph import run_graph

_SAMPLES = 6


class Reference:
    """The outputs of a program in float64, or in the program's own types when an operator does not support float64.

    Args:
        program: The program.
        leaves: The flat inputs.

    Attributes:
        refusal: The error of the float64 run; None when it succeeded or has not run.
    """

    def __init__(self, program: Program, leaves: Sequence[Any]) -> None:
        self._program, self._leaves = program, leaves
        self.refusal: str | None = None

    def __call__(self) -> list[Any]:
        """The flat outputs."""
        return self._truth

    @functools.cached_property
    def _truth(self) -> list[Any]:
        try:
            return run_in_float64(self._program, self._leaves)
        except Exception as error:  # noqa: BLE001 - an operator without float64 may raise any error
            self.refusal = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return self._program.run(self._leaves)

    def spread(self, index: int) -> torch.Tensor:
        """The largest change that rounding to float32 made in each element of an output, float64."""
        return self._spreads[index]

    @functools.cached_property
    def _spreads(self) -> dict[int, torch.Tensor]:
        truth = self._truth
        found = {i: torch.zeros_like(t, dtype=torch.float64) for i, t in enumerate(truth) if is_float(t)}
        for seed in range(_SAMPLES):
            runner = _Perturbed(self._program, seed, wide=self.refusal is None)
            for i, moved in enumerate(runner.outputs(self._leaves)):
                if i in found:
                    away = (moved.double() - truth[i].double()).abs()
                    found[i] = torch.maximum(found[i], away.where(away.isfinite(), 0.0))
        return found


def run_in_float64(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """The outputs of the same graph with all floating-point state and inputs in float64."""
    return _Double(program).outputs(leaves)


class _Double:
    """A run in float64."""

    def __init__(self, program: Program, *, wide: bool = True) -> None:
        self._module = program.module
        self._wide = wide

    def outputs(self, leaves: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            return run_graph(self._module, [self._widened(leaf) for leaf in leaves], call=self.call, read=self._read)

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is operator.getitem:
            return args[0][args[1]]
        if self._wide:
            args, kwargs = fx.node.map_aggregate((args, kwargs), _wide_dtype)
            args = with_read_rows(target, args) if target in BAGS else args
        if target in DIALECT:
            with _FormulasInside():
                return self._widened(DIALECT[target](*args, **kwargs))
        formula = FORMULAS.get(target, target) if self._wide else target
        return self._widened(formula(*args, **kwargs))

    def _read(self, node: fx.Node, held: Any) -> Any:
        if all(reads_as_table(user, node) for user in node.users):
            return held  # `with_read_rows` widens the rows that the bag reads
        return self._widened(held)

    def _widened(self, value: Any) -> Any:
        return _to_double(value) if self._wide else value


class _Perturbed(_Double):
    """A float64 run that moves operands and results of arithmetic by a last bit of float32.

    An operator of the dialect runs as its definition in plain torch, and each step of the definition is moved.
    """

    def __init__(self, program: Program, seed: int, *, wide: bool) -> None:
        super().__init__(program, wide=wide)
        self._noise = RoundingNoise(seed)

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not rounds(target):
            return super().call(target, args, kwargs)
        if target in DIALECT:
            with _NoiseInside(self._noise):
                return super().call(DIALECT[target], args, kwargs)
        return self._noise.around(super().call, target, args, kwargs)


class _FormulasInside(TorchDispatchMode):
    """A mode that computes float64 operators by their formulas."""

    def __init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _by_formula(func, args)(*args, **(kwargs or {}))


class _NoiseInside(TorchDispatchMode):
    """A mode that moves operands and results of arithmetic."""

    def __init__(self, noise: RoundingNoise) -> None:
        super().__init__()
        self._noise = noise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not rounds(func) or func._schema.is_mutable:
            return func(*args, **(kwargs or {}))
        return self._noise.around(lambda f, a, k: _by_formula(f, a)(*a, **k), func, args, kwargs or {})


def _by_formula(target: Any, args: Any) -> Any:
    """The function that computes an operator: its formula for float64, if it has one."""
    return (
        FORMULAS.get(target, target)
        if is_float(args[0] if args else None) and args[0].dtype is torch.float64
        else target
    )


def _wide_dtype(value: Any) -> Any:
    """The double-precision dtype in place of a dtype argument; any other value as it is."""
    if not isinstance(value, torch.dtype):
        return value
    wide = {
        torch.float32: torch.float64,
        torch.float16: torch.float64,
        torch.bfloat16: torch.float64,
        torch.complex64: torch.complex128,
    }
    return wide.get(value, value)


def _to_double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    if isinstance(value, tuple | list):
        return type(value)(_to_double(v) for v in value)
    return value
