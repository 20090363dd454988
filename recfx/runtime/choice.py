"""The choice among several plans of one program at a call: by the number of rows, and after a failure of a plan.

A model with one plan on native kernels and torch does not use this code: its plan is called directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from recfx.errors import InputError
from recfx.ir.batch_axes import batch_axis
from recfx.ir.shapes import BATCH
from recfx.ir.signature import Signature

Runner = Callable[..., Sequence[Any]]


class Fallbacks:
    """Plans of one program in an order: where one fails at a call, the next one runs, in this call and in later ones.

    Args:
        plans: The plans, flat inputs -> flat outputs.
        trusted: For each plan, whether its errors say that the inputs are wrong, as those of native kernels and torch do.
        failed: Called once for each plan that fails, with its position, that of the plan that takes its place, and the error.
    """

    def __init__(
        self, plans: Sequence[Runner], trusted: Sequence[bool], failed: Callable[[int, int, Exception], None]
    ) -> None:
        self.plans, self.trusted, self.failed = tuple(plans), tuple(trusted), failed
        self._lock = threading.Lock()
        self._announced = set[int]()

    def runner(self, position: int) -> Runner:
        """A plan, with the plans after it as its fallbacks."""
        if self.trusted[position]:
            return self.plans[position]
        plans, current = self.plans, [position]

        def run(*leaves: Any) -> Sequence[Any]:
            at = current[0]
            try:
                return plans[at](*leaves)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - raised again unless another plan takes the inputs
                return self._recover(current, at, leaves, error)

        return run

    def _recover(self, current: list[int], at: int, leaves: Sequence[Any], error: Exception) -> Sequence[Any]:
        """Runs the plans after one that failed. If the last one fails as well, the inputs are wrong, and its error is raised."""
        if self.trusted[at] or at + 1 == len(self.plans):
            raise error
        for following in range(at + 1, len(self.plans)):
            try:
                found = self.plans[following](*leaves)
            except Exception:
                if following + 1 == len(self.plans) or self.trusted[following]:
                    raise
                continue
            with self._lock:
                current[0] = max(current[0], following)
                first = at not in self._announced
                self._announced.add(at)
            if first:
                self.failed(at, following, error)
            return found
        raise error


def by_rows(signature: Signature, runners: Sequence[Runner], bounds: Sequence[int]) -> Runner:
    """A function that calls the runner of the batch size.

    Args:
        signature: The calling convention, whose batch `rows_code` finds.
        runners: A runner for each range of batch sizes.
        bounds: The first batch size of each range but the first, ascending.
    """
    rows = rows_code(signature)
    if rows is None or len(runners) == 1:
        return runners[0]
    leaves = ", ".join(f"x{i}" for i in range(len(signature.leaves)))
    choice = "".join(f"_r{i} if rows < {bound} else " for i, bound in enumerate(bounds)) + f"_r{len(bounds)}"
    source = f"def run({leaves}):\n    rows = {rows}\n    return ({choice})({leaves})\n"
    namespace: dict[str, Any] = {f"_r{i}": runner for i, runner in enumerate(runners)}
    exec(compile(source, "<recfx choice of plan>", "exec"), namespace)
    run: Runner = namespace["run"]
    return run


def rows_code(signature: Signature) -> str | None:
    """Code of the batch size over the leaves x0, x1, ...; None if no leaf gives it."""
    if BATCH not in signature.dims:
        return None
    for index, leaf in enumerate(signature.leaves):
        if leaf.kind == "size" and leaf.value == BATCH:
            return f"x{index}"
        axis = batch_axis(leaf) if leaf.kind == "tensor" else None
        if axis is not None and leaf.repeats == "refused":
            return f"x{index}.shape[{axis.dim}]" + (f" // {axis.step}" if axis.step != 1 else "")
    return None
