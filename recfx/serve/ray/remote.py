"""`remote_models`: what recfx's server needs to stand in front of a deployment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.models import Source
from recfx.serve.plan import sources_of
from recfx.serve.policies.tenants import TenantConfig
from recfx.serve.policies.times import ServiceTimes
from recfx.serve.ray.deployed_models import RemoteModels
from recfx.serve.ray.interface import RemoteInterface, local_model
from recfx.serve.updates import UpdateSettings

#: Requests that are on their way to replicas at a time, for each model.
AT_A_TIME = 64

_WARM_UP = 5


def remote_models(
    handle: Any,
    models: Mapping[str, str | Path | Sequence[Source]],
    settings: EngineSettings | None = None,
    tenants: TenantConfig | None = None,
    updates: UpdateSettings | None = None,
) -> RemoteModels:
    """The models of a deployment, for `recfx.serve.Server`.

    Args:
        handle: What `serve.run` or `serve.get_app_handle` returned.
        models: Those of `deployment`.
        settings: Limits of this server: `most_queued`, `timeout` and `grace` count; `workers` requests of each model are on their way at
            a time.
        tenants: Limits per tenant.
        updates: Who may send new rows of tables; None if nobody may. The deployment needs `updates`, too.

    Raises:
        ArtifactError: A folder cannot be read.
        Rejected: No replica answers.
    """
    limits = settings or EngineSettings(workers=AT_A_TIME)
    made = RemoteModels(handle, limits, tenants, updates)
    for name, sources in sources_of(models):
        local, example = local_model(sources[0])
        interface = RemoteInterface(handle, name, local, limits.timeout)
        leaves = interface.leaves(example)
        seconds = statistics.median(_seconds(interface, leaves) for _ in range(_WARM_UP))
        times = ServiceTimes({max(interface.rows(leaves), 1): seconds})
        made.add_remote(name, sources, Variant(sources[0].name, interface, times))
    return made


def _seconds(interface: RemoteInterface, leaves: Sequence[Any]) -> float:
    begun = time.perf_counter()
    interface.call(leaves)
    return time.perf_counter() - begun
