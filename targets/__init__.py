"""The backends, their names, and the names of backend groups."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recfx.errors import TargetError
from recfx.targets.base import Backend, Lowered, Refused, Runner, Verdict
from recfx.targets.registry import BUILT_IN, Registry

if TYPE_CHECKING:
    from recfx.targets.eager import EagerBackend
    from recfx.targets.native import NativeBackend

BACKENDS = Registry()

#: Name of a group -> the device that its backends run on.
GROUPS: dict[str, str] = {"cpu": "cpu"}

#: Built-in backends that need other packages. Their absence is reported by `recfx doctor` only.
OPTIONAL = frozenset(BUILT_IN) - {"native", "eager"}


def __getattr__(name: str) -> Any:
    """The class of a backend, imported at its first use."""
    for package, kind in BUILT_IN.values():
        if kind == name:
            return getattr(importlib.import_module(package), kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def missing(name: str) -> str | None:
    """Why a registered backend cannot run here, and the next step; None if it can.

    A backend whose package is broken counts as missing.
    """
    try:
        return BACKENDS[name].unavailable()
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything when it is imported
        return _fails(error)


def _absent(name: str) -> str | None:
    """As `missing`, without importing the packages of the backend."""
    try:
        return BACKENDS[name].absent()
    except Exception as error:  # noqa: BLE001 - as in `missing`
        return _fails(error)


def _fails(error: Exception) -> str:
    problem = " ".join(f"{type(error).__name__}: {error}".split())
    return f"the backend fails to start ({problem[:200]}): reinstall its package"


def resolve(target: str | Sequence[str]) -> list[Backend]:
    """The backends of a target, in the order in which they are tried.

    Args:
        target: "cpu" (the CPU backends that can run here), a backend's name, or a list of such names.

    Raises:
        TargetError: A name is unknown, a backend cannot run here, or `target` is empty.
    """
    names = [target] if isinstance(target, str) else list(target)
    found: dict[str, Backend] = {}
    for name in names:
        if name in GROUPS:
            found |= {member: BACKENDS[member] for member in _group(GROUPS[name])}
        elif name in BACKENDS:
            if (reason := missing(name)) is not None:
                raise TargetError(f"the backend {name!r} cannot run here", hint=reason)
            found[name] = BACKENDS[name]
        else:
            known = ", ".join([*GROUPS, *BACKENDS])
            raise TargetError(f"unknown target {name!r}", hint=f"known targets: {known}")
    if not found:
        raise TargetError("the target names no backend", hint="pass target='cpu'")
    return list(found.values())


def _group(device: str) -> list[str]:
    """The backends of a device that can run here, in the order in which they are tried.

    Their packages are not imported before a program may be given to them: most programs run on the native kernels alone.
    """
    names = (name for name in BACKENDS if _absent(name) is None)
    return [name for name in names if device in BACKENDS[name].devices]


def missing_backends(target: str | Sequence[str]) -> dict[str, str]:
    """The backends in the groups of a target that cannot run here although recfx needs no other package for them: name -> next step."""
    devices = {GROUPS[name] for name in ([target] if isinstance(target, str) else target) if name in GROUPS}
    needed = [name for name in BACKENDS if name not in OPTIONAL and devices & BACKENDS[name].devices]
    reasons = {name: missing(name) for name in needed}
    return {name: reason for name, reason in reasons.items() if reason is not None}


__all__ = [
    "BACKENDS",
    "GROUPS",
    "OPTIONAL",
    "Backend",
    "EagerBackend",
    "Lowered",
    "NativeBackend",
    "Refused",
    "Runner",
    "Verdict",
    "missing",
    "missing_backends",
    "resolve",
]
