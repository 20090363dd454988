"""Backends, and the names users give to them and to groups of them."""

from __future__ import annotations

from collections.abc import Sequence

from recfx.errors import TargetError
from recfx.targets.base import Backend, Lowered, Refused, Runner, Verdict
from recfx.targets.eager import EagerBackend
from recfx.targets.native import NativeBackend

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (NativeBackend(), EagerBackend())}

#: Names that stand for every backend present on a device, competing with each other.
GROUPS: dict[str, str] = {"cpu": "cpu"}


def resolve(target: str | Sequence[str]) -> list[Backend]:
    """The backends a target stands for, in the order in which ties are decided.

    Args:
        target: "cpu" (every CPU backend present), a backend's name, or a list of those.

    Raises:
        TargetError: An unknown name, or a pinned backend that is not installed here.
    """
    names = [target] if isinstance(target, str) else list(target)
    found: dict[str, Backend] = {}
    for name in names:
        if name in GROUPS:
            found |= {b.name: b for b in BACKENDS.values() if GROUPS[name] in b.devices and b.unavailable() is None}
        elif name in BACKENDS:
            missing = BACKENDS[name].unavailable()
            if missing:
                raise TargetError(f"the backend {name!r} cannot run here", hint=missing)
            found[name] = BACKENDS[name]
        else:
            known = ", ".join([*GROUPS, *BACKENDS])
            raise TargetError(f"there is no target called {name!r}", hint=f"known targets: {known}")
    if not found:
        raise TargetError("no target was named", hint="pass target='cpu'")
    return list(found.values())


__all__ = [
    "BACKENDS",
    "GROUPS",
    "Backend",
    "EagerBackend",
    "Lowered",
    "NativeBackend",
    "Refused",
    "Runner",
    "Verdict",
    "resolve",
]
