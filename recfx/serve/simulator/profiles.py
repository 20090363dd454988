"""Reads what `fast.profile().to_json()` wrote: measured seconds of a compiled model by rows and threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from recfx.errors import InputError, MeasureError
from recfx.serve.policies import ServiceTimes

_FORMAT = 1
_HINT = "write it with json.dump(fast.profile().to_json(), file)"


def times_of(values: Any, where: str | None = None) -> ServiceTimes:
    """The times on one core, or on the fewest threads that were measured.

    Args:
        values: What `Profile.to_json` returned.
        where: The file, for messages.

    Raises:
        MeasureError: The values are not a profile.
    """
    try:
        if values["format"] != _FORMAT:
            raise ValueError(f"its format is {values['format']!r}")
        points = [(int(p["threads"]), int(p["rows"]), float(p["seconds"])) for p in values["points"]]
        fewest = min(threads for threads, _, _ in points)
        return ServiceTimes({rows: seconds for threads, rows, seconds in points if threads == fewest})
    except (KeyError, TypeError, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise MeasureError(f"not a profile of a compiled model: {what}", where=where, hint=_HINT) from error


def read_profile(path: Path) -> ServiceTimes:
    """The times in a file.

    Raises:
        InputError: The file cannot be read, or is not JSON.
        MeasureError: It holds no profile.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except OSError as error:
        raise InputError(f"the profile cannot be read: {error.strerror}", where=str(path), hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the profile is not JSON: {error}", where=str(path), hint=_HINT) from error
    return times_of(values, str(path))


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
