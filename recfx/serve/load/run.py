"""`run_load`: sends requests at given times, whether or not earlier ones have been answered, and measures from these times.

A client that waits for an answer before it sends the next request slows down with the server and hides its queue (coordinated omission).
"""

from __future__ import annotations

import asyncio
import dataclasses
import selectors
from collections.abc import Sequence
from typing import Any

import numpy as np

from recfx.serve.load.connection import Connections
from recfx.serve.simulator.arrivals import Poisson

#: `select` takes files up to number 1023, and a process has others than connections.
_MOST_SELECTED = 900

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Load:
    """The requests that were sent, in order.

    Attributes:
        due: When each should be sent, in seconds from the beginning.
        sent: When it was sent.
        done: When its answer was there.
        status: The HTTP status of its answer; 0 if the connection failed.
        begin: The clock (`time.monotonic`) at the beginning.
    """

    due: Numbers
    sent: Numbers
    done: Numbers
    status: np.ndarray[Any, np.dtype[np.int64]]
    begin: float = 0.0

    @property
    def seconds(self) -> Numbers:
        """The time from the moment a request was due to its answer."""
        return self.done - self.due

    @property
    def answered(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each request has an answer of the model."""
        found: np.ndarray[Any, np.dtype[np.bool_]] = self.status == 200
        return found

    def after(self, seconds: float) -> Load:
        """The requests that were due later than `seconds`, without a warm-up."""
        kept = self.due >= seconds
        return Load(self.due[kept], self.sent[kept], self.done[kept], self.status[kept], self.begin)

    def quantile(self, share: float) -> float:
        """A quantile of the time of answers, in seconds; infinity without answers."""
        times = self.seconds[self.answered]
        return float(np.quantile(times, share, method="higher")) if len(times) else float("inf")

    @property
    def lateness(self) -> float:
        """The 99th percentile of the time by which the generator itself sent too late, in seconds."""
        return float(np.quantile(self.sent - self.due, 0.99)) if len(self.due) else 0.0


def poisson_load(
    place: tuple[str, int],
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    warm_up: float,
    generator: np.random.Generator,
    most_connections: int = 256,
) -> Load:
    """Sends requests at the times of a Poisson process, and leaves out those of the warm-up.

    Args:
        place: Host and port of the server.
        requests: Complete requests; they are sent in turn.
        rate: Requests per second.
        seconds: The time that counts.
        warm_up: Seconds before it.
        generator: Of the times.
        most_connections: Connections at most.
    """
    due = np.concatenate(list(Poisson(rate).blocks(seconds + warm_up, generator)))
    return precise_load(*place, requests, due, most_connections).after(warm_up)


def precise_load(host: str, port: int, requests: Sequence[bytes], due: Numbers, most_connections: int = 256) -> Load:
    """Runs `run_load` in an event loop that sends on time.

    Args:
        host: The server.
        port: Its port.
        requests: Complete requests; they are sent in turn.
        due: When to send each, in ascending seconds from now.
        most_connections: Connections at most.
    """
    with asyncio.Runner(loop_factory=lambda: _loop(most_connections)) as runner:
        return runner.run(run_load(host, port, requests, due, most_connections))


def _loop(connections: int) -> asyncio.AbstractEventLoop:
    """An event loop that wakes within a tenth of a millisecond of the wanted time, without spending the processor's time on waiting.

    `epoll` and uvloop wait for whole milliseconds. With too many connections for `select`, requests are sent up to 1 ms late.
    """
    selector = selectors.SelectSelector() if connections <= _MOST_SELECTED else selectors.DefaultSelector()
    return asyncio.SelectorEventLoop(selector)


async def run_load(host: str, port: int, requests: Sequence[bytes], due: Numbers, most_connections: int = 256) -> Load:
    """Sends requests at given times.

    Args:
        host: The server.
        port: Its port.
        requests: Complete requests; they are sent in turn.
        due: When to send each, in ascending seconds from now.
        most_connections: Connections at most.
    """
    loop = asyncio.get_running_loop()
    connections = Connections(host, port, most_connections)
    sent, done, status = np.zeros(len(due)), np.zeros(len(due)), np.zeros(len(due), np.int64)
    begin = loop.time()
    running: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        sent[number] = loop.time() - begin
        status[number] = await connections.ask(requests[number % len(requests)])
        done[number] = loop.time() - begin

    for number, when in enumerate(due):
        while (left := begin + when - loop.time()) > 0.0:
            await asyncio.sleep(left)
        task = loop.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    connections.close()
    return Load(np.asarray(due, np.float64), sent, done, status, begin)
