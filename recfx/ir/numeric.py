"""Numeric comparison of two programs, by exactness class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import cache, partial
from typing import Any

import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.bag_rows import BAGS, with_read_rows
from recfx.ir.crosscheck import largest_difference
from recfx.ir.probes import probes
from recfx.ir.program import Program
from recfx.ir.tables import reads_as_table

#: A re-associated result may be this many times as far from the float64 result as the original's own, plus a few last bits.
REASSOC_FACTOR = 8.0
_LAST_BITS = 16.0


class Exactness(Enum):
    """What a pass may do to the numbers: nothing, reorder sums, or change the function."""

    EXACT = "exact"
    REASSOC = "reassoc"
    APPROX = "approx"


def weakest(classes: Iterable[Exactness]) -> Exactness:
    """The class that promises least; EXACT when there is none."""
    return max(classes, key=list(Exactness).index, default=Exactness.EXACT)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a verified program gave for some inputs, so that what is made from it can be held to the same.

    Attributes:
        name: What the inputs are called.
        leaves: The flat inputs.
        outputs: The flat outputs; None when it refuses these inputs.
        truth: Gives the outputs of the program it was compared with in float64.
    """

    name: str
    leaves: Sequence[Any]
    outputs: Sequence[Any] | None
    truth: Callable[[], Sequence[Any]]


def verify_numeric(before: Program, after: Program, exactness: Exactness) -> list[Run]:
    """Runs two programs on several batches (one row included) and compares them.

    EXACT demands equal bits. REASSOC demands that the error against a float64 run of `before` is at most `REASSOC_FACTOR` times
    the error of `before` itself plus a few last bits of the result's scale. APPROX demands the same shapes and dtypes, and no new NaN.
    Inputs that `before` refuses must be refused by `after` as well.

    Returns:
        The runs of `after`.

    Raises:
        VerificationError: They differ by more than the class allows.
    """
    runs = []
    for name, leaves in [("the example inputs", list(before.example)), *probes(before)]:
        truth = cache(partial(run_in_float64, before, leaves))
        try:
            expected = before.run(leaves)
        except Exception as error:  # noqa: BLE001 - inputs the original refuses must be refused by the new one as well
            require_refusal(after.run, leaves, name, f"{type(error).__name__}: {error}")
            runs.append(Run(name, leaves, None, truth))
            continue
        found = after.run(leaves)
        compare_outputs(expected, found, exactness, name, truth)
        runs.append(Run(name, leaves, found, truth))
    return runs


def compare_outputs(
    expected: Sequence[Any],
    actual: Sequence[Any],
    exactness: Exactness,
    inputs: str,
    exact_run: Any,
    *,
    slack: float = 1.0,
) -> None:
    """Compares flat outputs.

    Args:
        expected: What is right.
        actual: What is judged.
        exactness: How close it must be.
        inputs: What the inputs are called, for the error.
        exact_run: Gives the same outputs in float64.
        slack: Factor of what REASSOC allows.

    Raises:
        VerificationError: They are further apart.
    """
    if len(expected) != len(actual):
        raise VerificationError(f"{len(actual)} outputs instead of {len(expected)}", where=inputs)
    truth: Sequence[Any] | None = None
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        place = f"output {index} on {inputs}"
        if not isinstance(want, torch.Tensor):
            if want != got:
                raise VerificationError(f"{got!r} instead of {want!r}", where=place)
            continue
        if not isinstance(got, torch.Tensor) or want.shape != got.shape or want.dtype is not got.dtype:
            raise VerificationError("shape or dtype changed", where=place)
        if same_bits(want, got):
            continue
        if exactness is Exactness.EXACT or not want.is_floating_point():
            raise VerificationError(
                f"differs by {largest_difference([want], [got]):.3g} from an exact pass's input program",
                where=place,
                hint="an exact rewrite must keep every bit; declare it REASSOC if it only reorders sums",
            )
        if bool((got.isnan() & ~want.isnan()).any()):
            raise VerificationError("a NaN appeared that was not there before", where=place)
        if exactness is Exactness.REASSOC:
            truth = truth if truth is not None else exact_run()
            _check_reassociated(want, got, truth[index], place, slack)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of values in which NaN equals NaN."""
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def run_in_float64(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """The outputs of the same graph with all floating-point state and inputs in float64."""

    class _Double(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n.op == "get_attr" and all(reads_as_table(u, n) for u in n.users):
                return super().get_attr(str(n.target), (), {})  # the rows that are read are widened, not the table
            return super().run_node(n)

        def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
            return _to_double(super().get_attr(target, args, kwargs))

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            args, kwargs = torch.utils._pytree.tree_map(_wide_dtype, (args, kwargs))
            args = with_read_rows(target, args) if target in BAGS else args
            return _to_double(super().call_function(target, args, kwargs))

    with torch.no_grad():
        return list(_Double(program.module).run(*[_to_double(leaf) for leaf in leaves]))


def _wide_dtype(value: Any) -> Any:
    """A dtype that an operator is told to use, in double precision; anything else as it is."""
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


def _check_reassociated(
    want: torch.Tensor, got: torch.Tensor, truth: torch.Tensor, place: str, slack: float = 1.0
) -> None:
    finite = want.isfinite() & truth.isfinite() & got.isfinite()
    if not torch.equal(want.isfinite(), got.isfinite()):
        raise VerificationError("infinities or NaNs moved", where=place)
    exact, old, new = (t.double()[finite] for t in (truth, want, got))
    if not exact.numel():
        return
    last_bits = _LAST_BITS * torch.finfo(want.dtype).eps * float(exact.abs().max())
    allowed = slack * (REASSOC_FACTOR * float((old - exact).abs().max()) + last_bits)
    worst = float((new - exact).abs().max())
    if worst > allowed:
        raise VerificationError(
            f"the error against float64 is {worst:.3g}, more than the {allowed:.3g} a reordering of sums explains",
            where=place,
        )


def require_refusal(run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], name: str, why: str) -> None:
    """Raises `VerificationError` unless `run` refuses inputs that were refused before, for whatever reason of its own."""
    try:
        run(leaves)
    except Exception:  # noqa: BLE001 - any refusal is a refusal
        return
    raise VerificationError(f"inputs that failed before now pass: {why}", where=name)
