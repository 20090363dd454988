"""`Variant`: one compiled form of a model, ready to be called, with its measured times."""

from __future__ import annotations

import dataclasses
import statistics
import time

import torch

from recfx.compiled import CompiledModel
from recfx.errors import ArtifactError, RecfxError
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.served import Served
from recfx.serve.policies.times import ServiceTimes

#: Calls of the request side that are timed.
_ROUNDS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """One compiled form of a model.

    Attributes:
        name: Its name in metrics, such as "fp32".
        interface: The model by named tensors.
        times: Seconds of a call by rows, with the engine's number of threads.
        quality: The metric of its certificate; higher is better.
        digest: Of the manifest of its saved folder; "" for a model that was not loaded from one.
        request_seconds: The part of each call's time that is computed once for all parts of a divided call.
    """

    name: str
    interface: Served
    times: ServiceTimes
    quality: float = 0.0
    digest: str = ""
    request_seconds: float = 0.0


def variant(model: CompiledModel, name: str, threads: int, *, quality: float = 0.0, digest: str = "") -> Variant:
    """Makes a model ready to be called: its times are measured, or read from the cache of earlier runs, and it has run once.

    Args:
        model: The compiled model.
        name: Its name in metrics.
        threads: Threads of each call.
        quality: The metric of its certificate.
        digest: Of its saved folder.

    Raises:
        TargetError: An input or output cannot be sent over the protocol.
        ArtifactError: The model does not run.
        InputError: No inputs can be drawn for the model.
    """
    interface = ModelInterface(model)
    try:
        with torch.inference_mode():
            interface.call(list(model.parts.exemplified.example))
    except RecfxError as error:
        raise ArtifactError(f"the model does not run on drawn inputs: {error.in_one_line}", where=name) from error
    measured = model.profile(threads=[threads])
    times = ServiceTimes({point.rows: point.seconds for point in measured.points if point.threads == threads})
    return Variant(name, interface, times, quality, digest, _request_seconds(interface, threads))


def _request_seconds(interface: ModelInterface, threads: int) -> float:
    """The median time of what the parts of a divided call share; 0 for a model that computes all of it for each row."""
    example = interface.model.parts.exemplified.example
    pinned = interface.model.pinned()
    if interface.divisible is not None or interface.shared_by_parts(example, pinned) is None:
        return 0.0
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                begun = time.perf_counter()
                interface.shared_by_parts(example, pinned)
                found.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return statistics.median(found)
