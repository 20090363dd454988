"""Non-negative least squares by the active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def nonnegative_least_squares(matrix: Array, target: Array, start: Array | None = None) -> Array:
    """The vector x >= 0 with the least |matrix @ x - target|.

    Args:
        matrix: [equations, unknowns], finite.
        target: [equations].
        start: [unknowns], a positive vector near the result, which shortens the search. The columns must then be independent.

    Returns:
        [unknowns].
    """
    gram, right = matrix.T @ matrix, matrix.T @ target
    unknowns = len(right)
    found, free = np.zeros(unknowns), np.zeros(unknowns, dtype=bool)
    if start is not None:
        found, free = _on_free(gram, right, start, start > 0)
    scale = np.maximum(np.abs(matrix).T @ np.abs(target), np.finfo(float).tiny)
    for _ in range(3 * unknowns + 1):
        gain = np.where(free, -np.inf, (right - gram @ found) / scale)
        best = int(np.argmax(gain)) if unknowns else 0
        if not unknowns or gain[best] <= 1e-12:
            break
        free[best] = True
        found, free = _on_free(gram, right, found, free)
    return found


def _on_free(
    gram: Array, right: Array, start: Array, free: npt.NDArray[np.bool_]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The solution on the free unknowns. Unknowns that would become negative are fixed at zero, one after another."""
    found, free = start.copy(), free.copy()
    while free.any():
        solved = np.zeros_like(found)
        solved[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right[free], rcond=None)[0]
        if (solved[free] > 0).all():
            return solved, free
        negative = free & (solved <= 0)
        step = np.min(found[negative] / np.maximum(found[negative] - solved[negative], np.finfo(float).tiny))
        found = found + step * (solved - found)
        free &= found > np.finfo(float).eps * max(float(found.max()), 0.0)
        found[~free] = 0.0
    return found, free
