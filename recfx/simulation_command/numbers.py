"""Checks of options that hold several numbers, and of files to write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from recfx.command_line import listed
from recfx.errors import InputError


def numbers_of(text: str, option: str, between: str, least: int = 1, most: int = 1 << 30) -> list[float]:
    """Finite numbers between separators.

    Raises:
        InputError: A part is not a number, or there are too few or too many.
    """
    try:
        found = [float(part) for part in (listed(text) if between == "," else text.split(between))]
    except ValueError:
        found = []
    sound = least <= len(found) <= most and all(math.isfinite(number) for number in found)
    shape = between.join("1" * least) if least > 1 else "0.8138,0.8137"
    require(sound, option, text, f"pass numbers such as {shape}, as `recfx simulate --help` shows")
    return found


def integers(numbers: Sequence[float], option: str, text: str) -> list[int]:
    """Whole numbers of at least 0.

    Raises:
        InputError: A number is not one.
    """
    require(
        all(number == int(number) >= 0 for number in numbers), option, text, "pass whole numbers of at least 0 there"
    )
    return [int(number) for number in numbers]


def require(sound: bool, option: str, text: str, hint: str) -> None:
    """Refuses the text of an option.

    Raises:
        InputError: It is not sound.
    """
    if not sound:
        raise InputError(f"{option} cannot be {text!r}", where=option, hint=hint)


def require_file(path: Path | None, suffix: str) -> None:
    """Refuses an output file that cannot be written, before the simulation.

    Raises:
        InputError: Its folder does not exist, or it has another suffix.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise InputError(
            f"the file would be {path.name}", where=str(path), hint=f"give it a name that ends with {suffix}"
        )
    if not path.resolve().parent.is_dir():
        raise InputError("the folder of the file does not exist", where=str(path), hint="make the folder first")
