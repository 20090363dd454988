"""The multiple-choice knapsack: one option for each unit, so that the total weight keeps a capacity and the total worth is largest.

Dynamic programming over buckets of weight (Kellerer, Pferschy and Pisinger 2004, section 11.5). Weights are rounded up to whole buckets, so
that no choice exceeds the capacity; what rounding leaves is then filled with the true weights. The result is worth at least as much as
the best choice for a capacity that is smaller by one bucket for each unit: 1 % for 40 units and 4096 buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Buckets into which the capacity is divided.
BUCKETS = 4096

Numbers = NDArray[np.float64]


def choose(
    worth: Sequence[Numbers], weight: Sequence[Numbers], capacity: float, *, buckets: int = BUCKETS
) -> list[int]:
    """The option of each unit.

    Args:
        worth: For each unit the worth of its options, finite.
        weight: For each unit the weight of its options, 0 or more; infinite for an option that may not be taken.
        capacity: The largest total weight, 0 or more.
        buckets: See `BUCKETS`.

    Returns:
        The number of an option for each unit. If even the lightest options exceed the capacity, these.
    """
    lightest = [int(np.lexsort((-values, weights))[0]) for values, weights in zip(worth, weight, strict=True)]
    floor = [float(weights[light]) for weights, light in zip(weight, lightest, strict=True)]
    room = capacity - sum(floor)
    if not worth or room < 0:
        return lightest
    over = [weights - low for weights, low in zip(weight, floor, strict=True)]
    chosen = _by_buckets(worth, [_rounded(extra, room, buckets) for extra in over], buckets)
    return _filled(worth, over, chosen, room)


def _rounded(extra: Numbers, room: float, buckets: int) -> NDArray[np.int64]:
    """Weights in buckets, rounded up; more than there are where an option does not fit at all."""
    fits = extra <= room
    share = np.zeros(len(extra))
    np.divide(extra, room, out=share, where=fits & (extra > 0))
    return np.where(fits, np.minimum(np.ceil(share * buckets), buckets), buckets + 1).astype(np.int64)


def _by_buckets(worth: Sequence[Numbers], weight: Sequence[NDArray[np.int64]], buckets: int) -> list[int]:
    """The best options for weights in whole buckets."""
    best = np.zeros(buckets + 1)
    taken = np.zeros((len(worth), buckets + 1), dtype=np.int64)
    for unit, (values, weights) in enumerate(zip(worth, weight, strict=True)):
        found = np.full(buckets + 1, -np.inf)
        for option in np.flatnonzero(weights <= buckets):
            shift = weights[option]
            total = best[: buckets + 1 - shift] + values[option]
            better = total > found[shift:]
            found[shift:][better] = total[better]
            taken[unit, shift:][better] = option
        best = found
    left = buckets
    chosen = [0] * len(worth)
    for unit in reversed(range(len(worth))):
        chosen[unit] = int(taken[unit, left])
        left -= int(weight[unit][chosen[unit]])
    return chosen


def _filled(worth: Sequence[Numbers], weight: Sequence[Numbers], chosen: list[int], room: float) -> list[int]:
    """The options after those that rounding left out are taken, the most worth first."""
    chosen = list(chosen)
    while True:
        left = room - sum(float(weights[option]) for weights, option in zip(weight, chosen, strict=True))
        best: tuple[float, int, int] | None = None
        for unit, (values, weights) in enumerate(zip(worth, weight, strict=True)):
            gain = np.where(weights - weights[chosen[unit]] <= left, values - values[chosen[unit]], 0.0)
            option = int(gain.argmax())
            if gain[option] > 0 and (best is None or gain[option] > best[0]):
                best = float(gain[option]), unit, option
        if best is None:
            return chosen
        chosen[best[1]] = best[2]
