"""`deployment`: replicas of served models as a deployment of Ray Serve, with recfx's scaling and routing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from recfx.errors import InputError
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.models import Source
from recfx.serve.plan import sources_of
from recfx.serve.policies.scaling import ScalingConfig
from recfx.serve.ray.replica import Replica
from recfx.serve.ray.routing import POLICIES, configured
from recfx.serve.ray.scaling import ScalingPolicy
from recfx.serve.updates import UpdateSettings

#: Seconds between two reports of the replicas, and the time over which they are averaged.
_REPORT, _AVERAGE = 1.0, 5.0


def deployment(
    models: Mapping[str, str | Path | Sequence[Source]],
    *,
    name: str = "recfx",
    replicas: int | ScalingConfig = 1,
    engine: EngineSettings | None = None,
    routing: str = "peak-ewma",
    updates: UpdateSettings | None = None,
    processors: float | None = None,
    **options: Any,
) -> serve.Application:
    """Replicas of served models, to run by `serve.run` or to bind in an application of your own.

    `handle.infer.remote(model, tensors, timeout)` returns what `Replica.infer` does; a request goes to its replica in one hop, and
    requests that wait there share calls. `remote_models` makes of a handle what `Server` serves.

    Args:
        models: Name -> folder of a saved model or recommender, or its variants, the best first. Every machine needs the folders
            at the same paths.
        name: The name of the deployment.
        replicas: Their number, or the limits of scaling, which then follows the load.
        engine: Limits and threads of each replica; by default a worker for each of its processors.
        routing: The policy that chooses replicas: peak-ewma, prequal, power-of-two, least-in-flight or round-robin.
        updates: How new rows of tables are kept; None if none are taken. The folders must then be the same on all machines, on a disk that
            they share, because each model has its journal beside it.
        processors: Processors of each replica; by default the workers of `engine`, or 1.
        options: Further options of `serve.deployment`.

    Raises:
        InputError: A folder does not exist, or the policy is unknown.
    """
    if routing not in POLICIES:
        raise InputError(f"no routing policy {routing!r}", where="routing", hint=f"pass one of {', '.join(POLICIES)}")
    taken = processors if processors is not None else (1.0 if engine is None else float(engine.workers))
    settings = engine or EngineSettings(workers=max(int(taken), 1))
    actor = {"num_cpus": taken, **options.pop("ray_actor_options", {})}
    if isinstance(replicas, ScalingConfig):
        options["autoscaling_config"] = scaling(replicas)
    else:
        options["num_replicas"] = replicas
    made = serve.deployment(
        name=name,
        ray_actor_options=actor,
        request_router_config=RequestRouterConfig(**configured(routing)),
        max_ongoing_requests=settings.most_queued,
        health_check_period_s=2.0,
        **options,
    )(Replica)
    folders = {each: [_absolute(source) for source in sources] for each, sources in sources_of(models)}
    bound: serve.Application = made.bind(list(folders.items()), settings, updates)
    return bound


def scaling(limits: ScalingConfig) -> AutoscalingConfig:
    """The autoscaling of Ray Serve by `ScalingPolicy`, which has the hysteresis."""
    policy = AutoscalingPolicy(
        policy_function=f"{ScalingPolicy.__module__}:{ScalingPolicy.__name__}",
        policy_kwargs=dataclasses.asdict(limits),
    )
    return AutoscalingConfig(
        min_replicas=limits.least,
        max_replicas=limits.most,
        policy=policy,
        metrics_interval_s=_REPORT,
        look_back_period_s=_AVERAGE,
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
    )


def _absolute(source: Source) -> Source:
    return dataclasses.replace(source, folder=source.folder.absolute())
