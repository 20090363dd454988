"""`RemoteInterface`: a model whose calls run in replicas.

The server checks, admits, counts and answers requests as it does for models of its own; each call is one request to a replica, which forms
the batches. A request whose replica dies goes to another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from recfx.compiled import load
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.served import Served, Updatable
from recfx.serve.models import Source
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.ray.refusals import require_answer
from recfx.serve.ray.remote_updates import RemoteUpdates
from recfx.serve.recommender.files import is_recommender
from recfx.serve.recommender.interface import RecommenderInterface
from recfx.serve.recommender.recommender import Recommender

_log = logging.getLogger("recfx.serve")

#: A request goes to other replicas for so many seconds after its replica died, with pauses that grow up to the second number.
_RETRY_SECONDS, _LONGEST_PAUSE = 30.0, 0.5


class RemoteInterface:
    """A model whose calls run in a replica. The methods are those of `Served`.

    Args:
        handle: The handle of the deployment.
        model: The name of the model there.
        local: The same model here, for the checks of requests; it is not called.
        timeout: Seconds until a replica must have answered; None for its default.
    """

    joinable: str | None = "the replica forms the batches"
    divisible: str | None = "the replica divides calls"
    runs_on_own_kernels = False

    def __init__(self, handle: Any, model: str, local: Served, timeout: float | None = None) -> None:
        self._handle, self._model, self._local, self._timeout = handle, model, local, timeout
        self.inputs, self.outputs = local.inputs, local.outputs

    @property
    def updates(self) -> Updatable:
        """Its changes, which reach all replicas."""
        return RemoteUpdates(self._handle, self._model)

    @property
    def most_rows(self) -> int | None:
        """See `ModelInterface.most_rows`."""
        return self._local.most_rows

    def leaves(self, tensors: Mapping[str, torch.Tensor]) -> list[Any]:
        """The tensors of a request, checked."""
        self._local.rows(self._local.leaves(tensors))
        return [dict(tensors)]

    def rows(self, leaves: Sequence[Any]) -> int:
        """The rows of a request."""
        return self._local.rows(self._local.leaves(leaves[0]))

    def call(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """Sends a request to a replica, and to another one if that dies.

        Raises:
            Rejected: The replica refuses it, or no replica answers.
        """
        until, pause = time.monotonic() + _RETRY_SECONDS, 0.01
        while True:
            try:
                outputs, refusal = self._handle.infer.remote(self._model, leaves[0], self._timeout).result()
                break
            except (RayActorError, DeploymentUnavailableError) as error:
                if time.monotonic() > until:
                    raise Rejected(
                        Reason.FAILED,
                        f"no replica answers: {type(error).__name__}",
                        where=f"model {self._model}",
                        hint="look at the log of Ray Serve",
                    ) from error
                _log.warning("model %s: a replica was lost; its request is sent again", self._model)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        found: list[torch.Tensor] = require_answer(outputs, refusal)
        return found

    def join(self, requests: Sequence[Sequence[Any]]) -> list[Any]:
        """Not called: `joinable` says why."""
        raise NotImplementedError(self.joinable)

    def divide(self, outputs: Sequence[torch.Tensor], rows: Sequence[int]) -> list[list[torch.Tensor]]:
        """Not called: `joinable` says why."""
        raise NotImplementedError(self.joinable)


def local_model(source: Source) -> tuple[Served, dict[str, torch.Tensor]]:
    """The interface of a saved model, and inputs that it takes."""
    if is_recommender(source.folder):
        recommender = Recommender.load(source.folder)
        return RecommenderInterface(recommender), recommender.example(1)
    model = load(source.folder)
    interface = ModelInterface(model)
    example = interface.tensors(model.parts.exemplified.example)
    return interface, dict(zip((info.name for info in interface.inputs), example, strict=True))
