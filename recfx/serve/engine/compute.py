"""The outcomes of the requests of one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from recfx.errors import InputError, RecfxError
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.requests import Outcome
from recfx.serve.outcomes import Reason, Rejected

_log = logging.getLogger("recfx.serve")


def outcomes_of(batch: Batch, model: str) -> list[Outcome]:
    """Runs a batch.

    A call of several requests that fails is repeated request by request, so that only the request at fault gets the error.

    Args:
        batch: The requests and the variant.
        model: The name of the model, for messages.
    """
    requests, interface = batch.requests, batch.variant.interface
    try:
        if len(requests) == 1:
            return [_run(batch, requests[0].leaves)]
        outputs = _run(batch, interface.join([request.leaves for request in requests]))
        return list(interface.divide(outputs, [request.rows for request in requests]))
    except Exception as error:  # noqa: BLE001 - a fault of the request or of the model is the outcome of the request
        if len(requests) == 1:
            return [_failure(error, f"model {model}")]
    return [outcome for request in requests for outcome in outcomes_of(batch.only(request), model)]


def _run(batch: Batch, leaves: Sequence[Any]) -> list[torch.Tensor]:
    """A run of the model, whose times are noted."""
    begun = time.monotonic()
    try:
        return batch.variant.interface.call(leaves)
    finally:
        batch.runs.append((begun, time.monotonic()))


def _failure(error: Exception, where: str) -> Rejected:
    """The refusal of a request whose call raised an error."""
    if isinstance(error, Rejected):  # by the replica that ran it
        return error
    if isinstance(error, InputError):
        return Rejected(Reason.INVALID, error.what, where=error.where or where, hint=error.hint)
    _log.error("%s failed", where, exc_info=error)
    what = error.in_one_line if isinstance(error, RecfxError) else f"{type(error).__name__}: {error}"
    return Rejected(
        Reason.FAILED, f"the model failed: {what}", where=where, hint="the log of the server has the traceback"
    )
