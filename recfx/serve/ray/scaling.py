"""`ScalingPolicy`: recfx's scaling of replicas as a policy of Ray Serve's autoscaler."""

from __future__ import annotations

from typing import Any

from recfx.serve.policies.scaling import ReplicaScaling, ScalingConfig


class ScalingPolicy:
    """Chooses the number of replicas by what the replicas report; see `ReplicaScaling`.

    Replicas report their load in units of what one of them computes in a second, so that several models of different speed add up.

    Args:
        limits: The fields of `ScalingConfig`.
    """

    def __init__(self, **limits: Any) -> None:
        self._scaling = ReplicaScaling(ScalingConfig(**limits))

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas.

        Args:
            context: An `AutoscalingContext` of Ray Serve.

        Returns:
            The number, and the state of the policy for Ray, which this one does not need.
        """
        reported = context.aggregated_metrics or {}
        use = sum((reported.get("use") or {}).values())
        waiting = sum((reported.get("waiting_seconds") or {}).values())
        replicas = max(context.target_num_replicas, 1)
        wanted = self._scaling.observe(use, waiting, replicas, 1.0)
        return wanted, {}
