"""`Call`: a batch on its way through the workers, whole or in parts of its rows, and the one report of its outcome."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from recfx.compiled import PinnedModel
from recfx.errors import InputError
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.compute import outcomes_of
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.requests import Outcome, Request
from recfx.serve.outcomes import Reason, Rejected

_log = logging.getLogger("recfx.serve")

Bounds = tuple[tuple[int, int], ...]


class Call:
    """A batch on its way through the workers.

    Each part is run by one worker. The worker that ends the last part has the outcome of the whole batch: the rows of all parts, or, after
    an error, that of the batch run once more in one piece. So no request gets a part of its rows, and errors name the rows of the request.

    The methods `next_part`, `ended`, `stop` and `claim` are called under the engine's lock.

    Args:
        batch: The requests and the variant.
        bounds: First row and end of each part; one part for a batch that is not divided.
        begun: When the batch was taken from the queue.
        seconds: The time that it is expected to take; 0 if nobody asks.
        grace: Seconds after the deadlines of its requests by which their answer is still wanted.

    Attributes:
        batch: See above.
        begun: See above.
        seconds: See above.
        claimed: Whether somebody reports, or has reported, the outcome.
    """

    def __init__(
        self, batch: Batch, bounds: Bounds, begun: float, seconds: float = 0.0, grace: float = math.inf
    ) -> None:
        self.batch = batch
        self.begun = begun
        self.seconds = seconds
        self._grace = grace
        self._bounds = bounds
        self._leaves: Sequence[Any] = ()
        self._held: Sequence[Any] | None = None
        self._model: PinnedModel | None = None  # until the last part has ended; updates of tables wait for that
        self._outputs: list[Sequence[torch.Tensor] | None] = [None] * len(bounds)
        self._whole: list[Outcome] | None = None
        self._taken = self._running = 0
        self._stopped = self._late = self.claimed = False

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self._bounds)

    @property
    def waiting(self) -> int:
        """Parts that no worker has taken."""
        return 0 if self._stopped else self.parts - self._taken

    def next_part(self, now: float) -> int | None:
        """Takes a part; None if none is left, or if nobody waits for the answer any more."""
        latest = now - self._grace
        if self._taken and self.waiting and all(r.cancelled or latest > r.deadline for r in self.batch.requests):
            self._late = True
            self.stop()
        if not self.waiting:
            return None
        self._taken += 1
        self._running += 1
        return self._taken - 1

    def ended(self, part: int, outputs: Sequence[torch.Tensor] | None) -> None:
        """Takes the outputs of a part; None after an error, and then no further part begins."""
        self._running -= 1
        self._outputs[part] = outputs
        if outputs is None:
            self.stop()
        if self.complete:
            self._model = None

    @property
    def complete(self) -> bool:
        """Whether no part runs and none will begin."""
        return not self._running and not self.waiting

    def stop(self) -> None:
        """Begins no further part."""
        self._stopped = True

    def claim(self) -> Sequence[Request] | None:
        """The requests, for the one caller that reports their outcome; None for all others."""
        if self.claimed:
            return None
        self.claimed = True
        return self.batch.requests

    @property
    def _divisible(self) -> ModelInterface:
        """The model of a call in parts; only compiled models are divided."""
        interface = self.batch.variant.interface
        assert isinstance(interface, ModelInterface)
        return interface

    def prepare(self, model: str) -> bool:
        """Joins the rows of the requests and computes what the parts share; whether the parts can run.

        Args:
            model: The name of the model, for messages.
        """
        interface, requests = self._divisible, self.batch.requests
        try:
            leaves = requests[0].leaves
            self._leaves = leaves if len(requests) == 1 else interface.join([request.leaves for request in requests])
            self._model = interface.model.pinned()
            self._held = interface.shared_by_parts(self._leaves, self._model)
        except Exception as error:  # noqa: BLE001 - the whole call finds the error again, and says what is wrong
            level = logging.INFO if isinstance(error, InputError) else logging.WARNING
            _log.log(level, "model %s: a call is not divided: %s: %s", model, type(error).__name__, error)
            self._model = None
            return False
        return True

    def run(self, part: int, model: str) -> Sequence[torch.Tensor] | None:
        """Runs a part.

        Args:
            part: Its number.
            model: The name of the model, for messages.

        Returns:
            Its outputs; None after an error.
        """
        if self.parts == 1:
            self._whole = outcomes_of(self.batch, model)
            return ()
        if self._model is None:  # `prepare` found an error
            return None
        start, end = self._bounds[part]
        begun = time.monotonic()
        try:
            return self._divisible.call_part(self._leaves, self._held, start, end, self._model)
        except Exception as error:  # noqa: BLE001 - the whole call runs again, and its error is the outcome
            _log.info("model %s: rows %d to %d failed, so all rows run again: %s", model, start, end, error)
            return None
        finally:
            self.batch.runs.append((begun, time.monotonic()))

    def outcomes(self, model: str) -> list[Outcome]:
        """The outcome of each request, when the call is complete.

        Args:
            model: The name of the model, for messages.
        """
        if self._whole is not None:
            return self._whole
        requests, interface = self.batch.requests, self.batch.variant.interface
        found = [outputs for outputs in self._outputs if outputs is not None]
        if len(found) == self.parts:
            outputs = self._divisible.joined(found)
            return [outputs] if len(requests) == 1 else list(interface.divide(outputs, [r.rows for r in requests]))
        if self._late and None not in self._outputs[: self._taken]:
            late = Rejected(
                Reason.GIVEN_UP, "the deadline passed while the request was computed", where=f"model {model}"
            )
            return [late] * len(requests)
        return outcomes_of(self.batch, model)
