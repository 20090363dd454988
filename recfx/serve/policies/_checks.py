"""Checks of the configurations of policies: a `ValueError` that says what is wrong and what to pass instead."""

from __future__ import annotations

import math

#: Stands between the fault and the next step in the text of an error, as in recfx's own errors.
NEXT = "\n  next:  "


def refuse(what: str, hint: str) -> ValueError:
    """The error for a value that a policy cannot work with.

    Args:
        what: The fault, in one sentence.
        hint: The next step for the reader.
    """
    return ValueError(f"{what}{NEXT}{hint}")


def check_number(name: str, value: float, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Refuses a number outside its range.

    Args:
        name: The field, for the message.
        value: The number.
        least: The smallest allowed value.
        most: The largest allowed value; infinity allows every finite number.
        above: Whether `least` itself is refused.

    Raises:
        ValueError: The value is not a finite number of the range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and least <= value <= most and not (above and value == least):
        return
    low = f"above {least:g}" if above else f"of at least {least:g}"
    high = "" if most == math.inf else f" and at most {most:g}"
    raise refuse(f"{name} is {value!r}", f"pass a number {low}{high}")


def check_count(name: str, value: int, least: int = 1, most: float = math.inf) -> None:
    """Refuses a value that is not an integer of its range.

    Raises:
        ValueError: The value is not an integer from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        high = "" if most == math.inf else f" and at most {most:g}"
        raise refuse(f"{name} is {value!r}", f"pass an integer of at least {least}{high}")
