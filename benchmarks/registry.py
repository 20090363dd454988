"""Finds cases and peers: every module in `benchmarks/cases` and `benchmarks/peers`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Protocol, TypeVar

import benchmarks.cases
import benchmarks.peers
from benchmarks.case import Case
from benchmarks.peer import Peer
from recfx.errors import InputError

#: Sets of cases under one name.
GROUPS: dict[str, tuple[str, ...]] = {
    "standard": (
        *("dlrm", "rm1", "rm2", "rm3", "dlrm-dcnv2", "dlrm-kaggle", "deepfm", "xdeepfm", "autoint"),
        *("din-100", "din-1000", "bst", "mmoe", "sasrec", "two-tower"),
    ),
    "request": ("request-*",),
    "lookup": ("lookup-*",),
    "mixed": (
        *("text-tower", "image-tower", "two-recurrences", "dien", "ccpm", "fgcnn", "hstu", "mask-net"),
        "interest-experts",
    ),
}


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def all_cases() -> dict[str, Case]:
    """Name -> case."""
    return _collect(benchmarks.cases, "CASES", Case)


def all_peers() -> dict[str, Peer]:
    """Name -> peer."""
    return _collect(benchmarks.peers, "PEERS", Peer)  # type: ignore[type-abstract]


def select(
    known: dict[str, T], wanted: Sequence[str], what: str, groups: Mapping[str, Sequence[str]] | None = None
) -> list[T]:
    """Selects entries by names or patterns such as `dlrm*`, each entry once, in the order of `wanted`.

    Args:
        known: All entries by name.
        wanted: Names, patterns, and groups as `@name`; entries that fit a pattern after `!` are left out.
        what: The kind of entry, for messages.
        groups: Name -> names or patterns.

    Raises:
        InputError: No entry fits a name or pattern.
    """
    chosen: dict[str, T] = {}
    for pattern in _flat(wanted, groups or {}):
        out = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            close = get_close_matches(pattern, known)
            raise InputError(
                f"unknown {what} {pattern!r}",
                hint=f"did you mean {' or '.join(close or known)}?",
                where="benchmarks",
            )
        for name in fitting:
            if out:
                chosen.pop(name, None)
            else:
                chosen[name] = known[name]
    return list(chosen.values())


def _flat(wanted: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Replaces groups by their patterns; patterns that leave entries out come last."""
    flat: list[str] = []
    for pattern in wanted:
        if pattern.startswith("@") and pattern[1:] not in groups:
            raise InputError(f"unknown group {pattern!r}", hint=f"groups: {', '.join(groups)}", where="benchmarks")
        flat += groups[pattern[1:]] if pattern.startswith("@") else [pattern]
    return sorted(flat, key=lambda pattern: pattern.startswith("!"))


def _collect(package: ModuleType, attribute: str, kind: type[T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for item in getattr(module, attribute, ()):
            if not isinstance(item, kind):
                raise InputError(
                    f"{attribute} holds {item!r}, which is not a {kind.__name__}",
                    where=module.__name__,
                    hint="list instances of that class",
                )
            if item.name in found:
                raise InputError(
                    f"two of {attribute} are called {item.name!r}",
                    where=module.__name__,
                    hint="give one of them another name",
                )
            found[item.name] = item
    return found
