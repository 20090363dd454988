"""Serving on many machines: an adapter of the engine to Ray Serve (the extra `recfx[ray]`).

`deployment` makes a deployment of replicas that an application of your own can bind; `recfx serve --engine ray` puts recfx's server in
front of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recfx.serve.ray.application import deployment as deployment
    from recfx.serve.ray.remote import remote_models as remote_models

_HOMES = {"deployment": "application", "remote_models": "remote"}

__all__ = ["deployment", "remote_models"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recfx.serve.packages import require_ray

    require_ray()
    return getattr(import_module(f"recfx.serve.ray.{_HOMES[name]}"), name)
