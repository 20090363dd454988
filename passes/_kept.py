"""`keep=[...]`: the names of weights, or of groups of channels, that a pass leaves as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from recfx.errors import InputError

#: The most names that an error lists.
_LISTED = 8

#: The reason of a miss at a weight that `keep` names.
KEPT = "keep names it"


def require_known(keep: Collection[str], known: Iterable[str], where: str) -> None:
    """Checks that each name in `keep` exists.

    Args:
        keep: The names.
        known: All names that exist.
        where: The name of the pass.

    Raises:
        InputError: A name does not exist.
    """
    names = list(known)
    unknown = [kept for kept in keep if kept not in names]
    if unknown:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise InputError(
            f"keep names {unknown[0]!r}, which the program does not have here",
            where=where,
            hint=f"use names of this program: {', '.join(names[:_LISTED]) or 'it has none'}{more}",
        )
