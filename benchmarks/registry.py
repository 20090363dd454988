"""Finds cases and peers: every module in `benchmarks/cases` and `benchmarks/peers`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Protocol, TypeVar

import benchmarks.cases
import benchmarks.peers
from benchmarks.case import Case
from benchmarks.peer import Peer
from recfx.errors import InputError


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


def select(known: dict[str, T], wanted: Sequence[str], what: str) -> list[T]:
    """Those whose names are given or fit a pattern such as `dlrm*`, each once, in the order asked for.

    Raises:
        InputError: A name or pattern that fits nothing.
    """
    chosen: dict[str, T] = {}
    for pattern in wanted:
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            close = get_close_matches(pattern, known)
            raise InputError(
                f"there is no {what} {pattern!r}",
                hint=f"did you mean {' or '.join(close or known)}?",
                where="benchmarks",
            )
        chosen.update((name, known[name]) for name in fitting)
    return list(chosen.values())


def _collect(package: ModuleType, attribute: str, kind: type[T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for item in getattr(module, attribute, ()):
            if not isinstance(item, kind):
                raise InputError(f"{attribute} holds {item!r}, which is no {kind.__name__}", where=module.__name__)
            if item.name in found:
                raise InputError(f"two of {attribute} are called {item.name!r}", where=module.__name__)
            found[item.name] = item
    return found
