"""`EngineSettings`: the limits and threads of a served model."""

from __future__ import annotations

import dataclasses
import math
import os

from recfx.errors import InputError


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """The limits and threads of a served model.

    Attributes:
        workers: Threads that call the model; by default one for each processor.
        threads: Threads of torch and of the kernels in each call.
        most_queued: Requests that wait at most; further ones are rejected at once.
        most_rows: Rows of a request at most.
        batch_rows: Rows of a call that several requests share, at most.
        split: Whether a call is divided over idle workers, where the rows do not depend on one another and it then ends earlier.
        here_seconds: A request whose call is expected to take less, and that need not wait, runs in the thread that brings it, such as
            that of the event loop: handing it to a worker and back would take longer. 0 gives every request to a worker.
        most_wait: Seconds that a request waits for others while a worker is free.
        timeout: Seconds until a request without a deadline of its own must be answered; None for no deadline. A request whose answer
            would come later, by the measured times, is refused when it arrives.
        grace: Seconds after its deadline by which a request that was admitted is still answered, late, because calls took longer than
            predicted; one that would take longer is refused. Infinity answers all of them; 0 refuses a request as soon as its deadline
            cannot be met.
        call_seconds: After this time a call counts as hung: its requests are answered with an error and its worker is replaced.
    """

    workers: int = dataclasses.field(default_factory=processors)
    threads: int = 1
    most_queued: int = 1024
    most_rows: int = 65536
    batch_rows: int = 1024
    split: bool = True
    here_seconds: float = 100e-6
    most_wait: float = 0.0
    timeout: float | None = None
    grace: float = math.inf
    call_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "most_queued", "most_rows", "batch_rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(
                    f"expected an integer of at least 1, got {value!r}", where=name, hint=f"pass {name}=1 or more"
                )
        least_seconds = {"here_seconds": 0.0, "most_wait": 0.0, "timeout": 1e-6, "grace": 0.0, "call_seconds": 1e-3}
        for name, least in least_seconds.items():
            value = getattr(self, name)
            if (name, value) in (("timeout", None), ("grace", math.inf)):
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
                raise InputError(
                    f"expected seconds of at least {least:g}, got {value!r}",
                    where=name,
                    hint="pass a number of seconds",
                )
