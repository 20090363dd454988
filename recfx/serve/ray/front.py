"""`serve_on_ray`: recfx's server in front of a deployment on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from recfx.serve.engine.settings import EngineSettings
from recfx.serve.plan import ServerPlan
from recfx.serve.policies.scaling import ScalingConfig
from recfx.serve.ray.application import deployment
from recfx.serve.ray.remote import AT_A_TIME, remote_models
from recfx.serve.server import Server

#: The application of the command on a cluster.
APPLICATION = "recfx"


def serve_on_ray(
    plan: ServerPlan,
    replicas: int | ScalingConfig,
    routing: str,
    address: str | None = None,
    ready: Callable[[Server], None] | None = None,
    **options: Any,
) -> None:
    """Runs the models of a plan as a deployment, and serves them until SIGTERM or SIGINT.

    Args:
        plan: The models, and the settings of the server and of each replica's engine.
        replicas: See `deployment`.
        routing: Likewise.
        address: That of a cluster; None for the one that runs on this machine, or a new one of this machine alone.
        ready: Called when the server listens.
        options: Options of `ray.init` for a new cluster.

    Raises:
        TargetError: The port is taken.
        RecfxError: A model cannot be loaded.
    """
    begun = not ray.is_initialized()
    if begun:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, **options)
    serve.start(proxy_location="Disabled")
    models = dict(plan.models)
    try:
        application = deployment(models, replicas=replicas, engine=plan.engine, routing=routing, updates=plan.updates)
        handle = serve.run(application, name=APPLICATION, route_prefix=None)
        limits = EngineSettings(workers=AT_A_TIME, grace=plan.engine.grace)  # replicas have the limits of the plan
        served = remote_models(handle, models, limits, plan.tenants, plan.updates)
        Server(served, settings=plan.settings, http=plan.http, tracing=plan.made_tracing()).run(ready=ready)
    finally:
        serve.delete(APPLICATION)
        if begun:
            ray.shutdown()
