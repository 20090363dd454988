"""Numeric comparison of two programs, by exactness class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

import torch

from recfx.errors import VerificationError
from recfx.ir.difference import difference
from recfx.ir.known_runs import known_outputs
from recfx.ir.probes import checked_example, probes
from recfx.ir.program import Program
from recfx.ir.reference_run import Reference
from recfx.ir.special_rows import EXTREME, judged, special_batches
from recfx.ir.tolerance import check_nan, check_reassociated, is_within_last_bits


class Exactness(Enum):
    """The effect of a pass on numbers: none (EXACT), reordered sums (REASSOC), or another function (APPROX)."""

    EXACT = "exact"
    REASSOC = "reassoc"
    APPROX = "approx"


def weakest(classes: Iterable[Exactness]) -> Exactness:
    """The weakest of the classes (APPROX is the weakest); EXACT when there are no classes."""
    return max(classes, key=list(Exactness).index, default=Exactness.EXACT)


@dataclasses.dataclass(frozen=True)
class Run:
    """The outputs of a verified program for some inputs, with which later checks compare the programs derived from it.

    Attributes:
        name: The name of the inputs.
        leaves: The flat inputs.
        outputs: The flat outputs; None when the program refuses these inputs.
        truth: Computes the float64 outputs of the original program.
        special: Whether the rows are special, so that checks judge each row on its own.
    """

    name: str
    leaves: Sequence[Any]
    outputs: Sequence[Any] | None
    truth: Callable[[], Sequence[Any]]
    special: bool = False


def verify_numeric(
    before: Program,
    after: Program,
    exactness: Exactness,
    *,
    special: bool = True,
    extremes: list[str] | None = None,
) -> list[Run]:
    """Runs two programs on several batches, including a batch of one row, and compares their outputs.

    EXACT requires equal bits. REASSOC limits the error against a float64 run of `before` to `REASSOC_FACTOR` times the error of `before`
    itself, plus a few last bits of the result's scale. APPROX requires the same shapes and dtypes, no new NaN, and, on special rows, that
    every NaN stays. When `before` refuses inputs, `after` must refuse them as well; special rows that `before` refuses are skipped.

    Args:
        before: The correct program.
        after: The program to check.
        exactness: The allowed difference.
        special: Whether to compare on special rows as well; False where fewer ids are valid than a table has rows, as with a catalogue.
        extremes: Collects differences on rows of huge numbers and infinities; without it they are errors. A reordering can change the
            effect of infinities: W (q - k) can be NaN where W q - W k is not.

    Returns:
        The runs of `after`.

    Raises:
        VerificationError: The programs differ by more than `exactness` allows.
    """
    runs = []
    for name, leaves in [checked_example(before), *probes(before)]:
        truth = Reference(before, leaves)
        try:
            expected = known_outputs(before, leaves)
        except Exception as error:  # noqa: BLE001 - `after` must refuse the inputs that `before` refuses
            require_refusal(after.run, leaves, name, f"{type(error).__name__}: {error}")
            runs.append(Run(name, leaves, None, truth))
            continue
        found = _outputs(after, leaves, name)
        compare_outputs(expected, found, exactness, name, truth)
        runs.append(Run(name, leaves, found, truth))
    for batch, expected in judged(special_batches(before) if special else [], functools.partial(known_outputs, before)):
        truth = Reference(before, batch.leaves)
        found = _outputs(after, batch.leaves, batch.name)
        try:
            compare_outputs(expected, found, exactness, batch.name, truth, special=True)
        except VerificationError as error:
            if extremes is None or not batch.name.startswith(EXTREME):
                raise
            extremes.append(error.in_one_line)
        runs.append(Run(batch.name, batch.leaves, found, truth, special=True))
    return runs


def _outputs(program: Program, leaves: Sequence[Any], name: str) -> list[Any]:
    """The outputs of the checked program for inputs that the original accepts; raises `VerificationError` when it fails on them."""
    try:
        return program.run(leaves)
    except MemoryError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise VerificationError(
            f"the rewritten program fails on inputs that the original accepts: {text[:300]}",
            where=name,
            hint="a rewrite must keep the batch free and accept all inputs of the original",
        ) from error


def narrow_comparisons(runs: Sequence[Run]) -> tuple[str, ...]:
    """A notice when results were compared in float32 because an operator does not support float64."""
    refusals = [run.truth.refusal for run in runs if isinstance(run.truth, Reference) and run.truth.refusal]
    return tuple(f"answers were checked against float32, not float64: {refusal}" for refusal in refusals[:1])


def compare_outputs(
    expected: Sequence[Any],
    actual: Sequence[Any],
    exactness: Exactness,
    inputs: str,
    exact_run: Any,
    *,
    slack: float = 1.0,
    special: bool = False,
    kernels: bool = False,
) -> None:
    """Compares flat outputs.

    Args:
        expected: The correct outputs.
        actual: The outputs to check.
        exactness: The allowed difference.
        inputs: The name of the inputs, for the error.
        exact_run: Computes the expected outputs in float64.
        slack: Factor of the error that REASSOC allows.
        special: Whether the rows are special, so that each row is judged on its own.
        kernels: Whether other kernels ran the same operators; they must keep every NaN.

    Raises:
        VerificationError: The outputs differ by more than `exactness` allows.
    """
    if len(expected) != len(actual):
        raise VerificationError(f"{len(actual)} outputs instead of {len(expected)}", where=inputs)
    truth = functools.cache(lambda: [_real_parts(value) for value in exact_run()])
    extreme = inputs.startswith(EXTREME)
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        place = f"output {index} on {inputs}"
        complex_numbers = isinstance(want, torch.Tensor) and want.is_complex()
        if complex_numbers and isinstance(got, torch.Tensor) and got.dtype is want.dtype:
            want, got = _real_parts(want), _real_parts(got)
        if _is_same(want, got, exactness, place) or (extreme and exactness is Exactness.APPROX):
            continue
        if special:
            got = _where_rows_are_clean(want, got)
        # A kernel of the original may give a number where its formula gives NaN.
        if bool((got.isnan() & ~want.isnan()).any()):
            got = torch.where(got.isnan() & truth()[index].isnan(), want, got)
        before = want.isfinite() if special and not kernels else ~want.isnan()
        if not extreme and bool((got.isnan() & before).any()):
            raise VerificationError("a NaN appeared that was not there before", where=place)
        # Quantisation must keep NaN as well: the code of a lost NaN would stand for a plausible number.
        must_keep_nan = kernels or (special and exactness is Exactness.APPROX)
        if must_keep_nan and bool((want.isnan() & ~got.isnan()).any()):
            check_nan(want, got, truth()[index], place)
        if exactness is Exactness.REASSOC:
            if not extreme and is_within_last_bits(want, got, slack=slack, by_row=special):
                continue
            knows_spread = isinstance(exact_run, Reference) and not complex_numbers
            spread = functools.partial(exact_run.spread, index) if knows_spread else None
            check_reassociated(
                want, got, truth()[index], place, slack=slack, by_row=special, spread=spread, noise=extreme
            )


def _real_parts(value: Any) -> Any:
    """A complex tensor as a real tensor with a last dimension of two; any other value as it is."""
    is_complex = isinstance(value, torch.Tensor) and value.is_complex()
    return torch.view_as_real(value.resolve_conj()) if is_complex else value


def _is_same(want: Any, got: Any, exactness: Exactness, place: str) -> bool:
    """Whether an output is equal, with NaN equal to NaN; False when it differs and `exactness` allows a difference."""
    if not isinstance(want, torch.Tensor):
        if want != got:
            raise VerificationError(f"{got!r} instead of {want!r}", where=place)
        return True
    if not isinstance(got, torch.Tensor) or want.shape != got.shape or want.dtype is not got.dtype:
        raise VerificationError(f"shape or dtype changed from {_kind(want)} to {_kind(got)}", where=place)
    if same_bits(want, got):
        return True
    if exactness is Exactness.EXACT or not want.is_floating_point():
        raise VerificationError(
            f"differs {difference([want], [got])} from the result before an exact pass",
            where=place,
            hint="an exact rewrite must keep every bit; declare it REASSOC if it only reorders sums",
        )
    return False


def _kind(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _where_rows_are_clean(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """The checked output, with the expected values in place of its NaN in rows in which the expected output holds NaN, too.

    Kernels differ in how far a NaN spreads in its row: in torch's own attention it depends on the sizes.
    """
    if want.ndim == 0 or not want.numel():
        return got
    spoiled = want.reshape(want.shape[0], -1).isnan().any(1).reshape(-1, *[1] * (want.ndim - 1))
    return torch.where(spoiled & got.isnan(), want, got)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal, with NaN equal to NaN."""
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def require_refusal(run: Callable[[Sequence[Any]], Any], leaves: Sequence[Any], name: str, why: str) -> None:
    """Raises `VerificationError` unless `run` raises on inputs that the original refused; `why` is the original's error.

    Outputs without elements are accepted: torch refuses reshapes of no elements to `[0, -1]`, and a rewrite may remove such a reshape.
    """
    try:
        outputs = run(leaves)
    except Exception:  # noqa: BLE001 - any refusal is a refusal
        return
    if outputs and all(isinstance(output, torch.Tensor) and not output.numel() for output in outputs):
        return
    raise VerificationError(f"inputs that failed before now pass: {why}", where=name)
