"""Units: groups whose forms are chosen together, the options of each unit, and the best choice for a total harm.

Most units are one group. The widths of a table and the sharing of its rows are one unit, since a shared row saves less in fewer bits, and
since tables that are read with the same ids share one list of places.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from recfx.budget.knapsack import choose
from recfx.budget.steps import Group, Step


@dataclasses.dataclass(frozen=True)
class Option:
    """The forms of the groups of a unit.

    Attributes:
        forms: Group -> form, as pairs; groups without an entry are unchanged.
        harm: The mean square change of the outputs, divided by their variance.
        bytes: The share of all bytes that it saves.
        time: The share of all time that it saves.
    """

    forms: tuple[tuple[Group, str], ...] = ()
    harm: float = 0.0
    bytes: float = 0.0
    time: float = 0.0


#: The options of a unit. The first one leaves it unchanged.
Unit = tuple[Option, ...]
#: (share of bytes, share of time) -> what that is worth.
Worth = Callable[[float, float], float]


def best_choice(units: Sequence[Unit], most_harm: float, worth: Worth) -> list[Option]:
    """The options that are worth most within a total harm.

    Args:
        units: The units.
        most_harm: The largest sum of harms; infinity for no limit.
        worth: See `Worth`.
    """
    harms = [np.array([option.harm for option in unit]) for unit in units]
    values = [np.array([worth(option.bytes, option.time) for option in unit]) for unit in units]
    if math.isinf(most_harm):
        possible = [np.where(np.isfinite(harm), value, -np.inf) for harm, value in zip(harms, values, strict=True)]
        return [unit[int(value.argmax())] for unit, value in zip(units, possible, strict=True)]
    picked = choose(values, harms, most_harm)
    return [unit[option] for unit, option in zip(units, picked, strict=True)]


def least_harm(units: Sequence[Unit], bytes_saved: float) -> list[Option]:
    """The options of least total harm that save at least a share of all bytes; those that save most if none saves as much."""
    most = [max(option.bytes for option in unit) for unit in units]
    lost = [np.array([best - option.bytes for option in unit]) for unit, best in zip(units, most, strict=True)]
    harms = [np.array([-min(option.harm, 1e30) for option in unit]) for unit in units]
    picked = choose(harms, lost, sum(most) - bytes_saved)
    return [unit[option] for unit, option in zip(units, picked, strict=True)]


def setting_of_options(options: Sequence[Option]) -> dict[Group, str]:
    """The forms of all groups."""
    return {group: form for option in options for group, form in option.forms}


def reverted_by(steps: Sequence[Step], setting: dict[Group, str]) -> frozenset[int]:
    """The numbers of the steps that a setting takes back."""
    levels = {group: group.forms.index(form) for group, form in setting.items()}
    return frozenset(number for number, step in enumerate(steps) if step.level > levels.get(step.group, -1))
