"""`trace_load`: sends recorded requests at their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recfx.errors import InputError
from recfx.serve.load.run import Load, precise_load
from recfx.serve.load.trace import RequestTrace

#: Different requests of as many rows.
_OF_A_SIZE = 4


def trace_load(
    place: tuple[str, int],
    request: Callable[[int], bytes],
    trace: RequestTrace,
    sizes: Sequence[int],
    warm_up: float,
    most_connections: int = 256,
) -> Load:
    """Sends recorded requests at their times, and leaves out those of the first seconds.

    Args:
        place: Host and port of the server.
        request: Gives a complete request of so many rows.
        trace: The requests.
        sizes: Rows of the requests, in turn, where the trace does not have them.
        warm_up: Seconds that do not count.
        most_connections: Connections at most.

    Raises:
        InputError: No request is left after the warm-up.
    """
    if not len(trace.seconds) or trace.seconds[-1] < warm_up:
        end = float(trace.seconds[-1]) if len(trace.seconds) else 0.0
        raise InputError(
            f"the trace ends after {end:.3g} s, within the warm-up of {warm_up:g} s",
            where="--warm-up",
            hint="pass a shorter --warm-up, or a longer trace",
        )
    rows = (
        trace.rows.tolist() if trace.rows is not None else [sizes[at % len(sizes)] for at in range(len(trace.seconds))]
    )
    held: dict[tuple[int, int], bytes] = {}
    requests = []
    for at, count in enumerate(rows):
        key = count, at % _OF_A_SIZE
        if key not in held:
            held[key] = request(count)
        requests.append(held[key])
    return precise_load(*place, requests, trace.seconds, most_connections).after(warm_up)
