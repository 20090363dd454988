"""`keep=[...]`: the names of weights, or of groups of channels, that a pass leaves as they are.

A name stays the same when channels are removed: "top.0.weight" also names "top.0.weight_pruned", which `remove_channels` makes of it.
Choices about a model thus hold whether or not a pass before this one pruned it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from recfx.errors import InputError

_PRUNED = re.compile(r"_pruned(_\d+)?")
#: The most names that an error lists.
_LISTED = 8

#: The reason of a miss at a weight that `keep` names.
KEPT = "keep names it"


def lasting_name(name: str) -> str:
    """The name of a weight before any of its channels were removed."""
    return _PRUNED.sub("", name)


def is_kept(name: str, keep: Collection[str]) -> bool:
    """Whether `keep` names a weight."""
    return bool(keep) and lasting_name(name) in {lasting_name(kept) for kept in keep}


def require_known(keep: Collection[str], known: Iterable[str], where: str) -> None:
    """Checks that each name in `keep` exists.

    Args:
        keep: The names.
        known: All names that exist.
        where: The name of the pass.

    Raises:
        InputError: A name does not exist.
    """
    names = list(dict.fromkeys(map(lasting_name, known)))
    unknown = [kept for kept in keep if lasting_name(kept) not in names]
    if unknown:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise InputError(
            f"keep names {unknown[0]!r}, which the program does not have here",
            where=where,
            hint=f"use names of this program: {', '.join(names[:_LISTED]) or 'it has none'}{more}",
        )
