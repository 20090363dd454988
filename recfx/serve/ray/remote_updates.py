"""`RemoteUpdates`: changes of a model that runs in replicas.

A change goes to one replica, which writes it to the journal beside the saved model and makes it visible. The others read the journal. The
change is answered when all of them have it, so that every later request sees it. So the folder must be the same on all machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.ray.refusals import require_answer

#: Seconds in which replicas must have applied a change.
_SECONDS = 60.0


class Applied(NamedTuple):
    """How far a replica is.

    Attributes:
        digest: Of the saved model that it runs.
        version: The changes that it has applied.
    """

    digest: str
    version: int


class RemoteUpdates:
    """Changes of a model that runs in replicas. The methods are those of `Updatable`.

    Args:
        handle: The handle of the deployment.
        model: The name of the model there.
    """

    def __init__(self, handle: Any, model: str) -> None:
        self._handle, self._model = handle, model

    def check(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Does nothing: the replica checks a change before it writes any of it, and there is one variant here."""

    def update(self, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Makes a change visible in all replicas; the number of changes so far, and the rows of this one.

        Raises:
            Rejected: A replica refuses it, is lost, or does not have the change in time.
        """
        try:
            found, refusal = self._handle.update.remote(self._model, dict(tensors)).result(timeout_s=_SECONDS)
        except (RayActorError, DeploymentUnavailableError, TimeoutError) as error:
            raise Rejected(
                Reason.FAILED,
                f"the replica that had the change does not answer: {type(error).__name__}; it may be written or not",
                where=f"model {self._model}",
                hint="send the same change again, which does no harm",
            ) from error
        version, rows, digest = require_answer(found, refusal)
        self._require_everywhere(Applied(digest, version))
        return version, rows

    def _require_everywhere(self, wanted: Applied) -> None:
        """Makes all replicas read the journal.

        Raises:
            Rejected: One of them does not have the change.
        """
        found_by_all = [Applied(*each) for each in ask_all(self._handle, "follow", self._model)]
        behind = [found for found in found_by_all if is_behind(found, wanted)]
        if behind:
            raise Rejected(
                Reason.FAILED,
                f"{len(behind)} replicas do not have the change: they have applied {min(each.version for each in behind)} of "
                f"{wanted.version}",
                where=f"model {self._model}",
                hint="keep the saved model in a folder that all machines share, because its journal lies beside it",
            )

    def follow(self) -> int:
        """0: replicas follow the journal themselves."""
        return 0

    def document(self) -> dict[str, Any]:
        """What can be changed, as one replica has it.

        Raises:
            Rejected: The replica refuses.
        """
        found, refusal = self._handle.tables.remote(self._model).result(timeout_s=_SECONDS)
        held: dict[str, Any] = require_answer(found, refusal)
        return held


def is_behind(found: Applied, wanted: Applied) -> bool:
    """Whether a replica lacks a change. One that runs another saved model counts the changes of another journal."""
    return found.digest == wanted.digest and found.version < wanted.version


def ask_all(handle: Any, method: str, *arguments: Any) -> list[Any]:
    """What a method of all replicas returns. Replicas that die meanwhile are left out: those that replace them load and read everything.

    Args:
        handle: The handle of the deployment.
        method: The method, which returns an answer and a refusal as `Replica.infer` does.
        arguments: Its arguments.

    Raises:
        Rejected: A replica refuses, or does not answer in time.
    """
    try:
        answers: Sequence[Any] = handle.broadcast(method, *arguments).results(
            timeout_s=_SECONDS, return_exceptions=True
        )
    except (DeploymentUnavailableError, TimeoutError) as error:
        raise Rejected(
            Reason.FAILED, f"replicas do not answer: {type(error).__name__}", hint="look at the log of Ray Serve"
        ) from error
    found = []
    for answer in answers:
        if isinstance(answer, RayActorError):
            continue
        if isinstance(answer, Exception):
            raise Rejected(
                Reason.FAILED,
                f"a replica failed: {type(answer).__name__}: {answer}",
                hint="look at the log of Ray Serve",
            ) from answer
        found.append(require_answer(*answer))
    return found
