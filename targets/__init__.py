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

#: Built-in backends that only run when a target names them.
_NAMED_ONLY = frozenset(BUILT_IN) - {"native", "eager"}


def __getattr__(name: str) -> Any:
    """The class of a backend, imported at its first use."""
    for package, kind in BUILT_IN.values():
        if kind == name:
            return getattr(importlib.import_module(package), kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
            found |= {b.name: b for b in _group(GROUPS[name]) if b.unavailable() is None}
        elif name in BACKENDS:
            missing = BACKENDS[name].unavailable()
            if missing:
                raise TargetError(f"the backend {name!r} cannot run here", hint=missing)
            found[name] = BACKENDS[name]
        else:
            known = ", ".join([*GROUPS, *BACKENDS])
            raise TargetError(f"unknown target {name!r}", hint=f"known targets: {known}")
    if not found:
        raise TargetError("the target names no backend", hint="pass target='cpu'")
    return list(found.values())


def _group(device: str) -> list[Backend]:
    """The backends of the group of a device, in the order in which they are tried."""
    return [BACKENDS[name] for name in BACKENDS if name not in _NAMED_ONLY and device in BACKENDS[name].devices]


def missing_backends(target: str | Sequence[str]) -> dict[str, str]:
    """The backends in the groups of a target that cannot run here: name -> the missing part and the next step."""
    devices = {GROUPS[name] for name in ([target] if isinstance(target, str) else target) if name in GROUPS}
    reasons = {b.name: b.unavailable() for device in devices for b in _group(device)}
    return {name: reason for name, reason in reasons.items() if reason is not None}


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
    "missing_backends",
    "resolve",
]
