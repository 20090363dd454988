"""Serving of compiled models: policies that follow the load, a simulator of any number of machines that runs them, and a server.

`Server` serves models over HTTP and gRPC (the extra `recfx[serve]`); `EngineSettings`, `HttpSettings` and `ServerSettings` are its limits.
They are imported at their first use, because the policies and the simulator need none of their packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recfx.serve.engine.settings import EngineSettings as EngineSettings
    from recfx.serve.models import Models as Models
    from recfx.serve.models import Source as Source
    from recfx.serve.outcomes import Reason as Reason
    from recfx.serve.outcomes import Rejected as Rejected
    from recfx.serve.processes import ServerProcesses as ServerProcesses
    from recfx.serve.protocol.limits import HttpSettings as HttpSettings
    from recfx.serve.recommender.changes import Change as Change
    from recfx.serve.recommender.changes import Items as Items
    from recfx.serve.recommender.recommender import Recommender as Recommender
    from recfx.serve.server import Server as Server
    from recfx.serve.server import ServerSettings as ServerSettings
    from recfx.serve.tracing import Tracing as Tracing
    from recfx.serve.tracing import TracingSettings as TracingSettings
    from recfx.serve.updates import UpdateSettings as UpdateSettings

_HOMES = {
    "Change": "recommender.changes",
    "EngineSettings": "engine.settings",
    "HttpSettings": "protocol.limits",
    "Items": "recommender.changes",
    "Models": "models",
    "Reason": "outcomes",
    "Recommender": "recommender.recommender",
    "Rejected": "outcomes",
    "Server": "server",
    "ServerProcesses": "processes",
    "ServerSettings": "server",
    "Source": "models",
    "Tracing": "tracing",
    "TracingSettings": "tracing",
    "UpdateSettings": "updates",
}

__all__ = [
    "Change",
    "EngineSettings",
    "HttpSettings",
    "Items",
    "Models",
    "Reason",
    "Recommender",
    "Rejected",
    "Server",
    "ServerProcesses",
    "ServerSettings",
    "Source",
    "Tracing",
    "TracingSettings",
    "UpdateSettings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Server", "ServerProcesses", "ServerSettings"):
        from recfx.serve.packages import require

        require()
    return getattr(import_module(f"recfx.serve.{_HOMES[name]}"), name)
