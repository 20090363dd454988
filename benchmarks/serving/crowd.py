"""python -m benchmarks crowd: several times as many requests as a server can answer, for a while.

The server has two forms of the model, the second in int8. It refuses requests whose time limit cannot be met. Requests are sent at the
times of a Poisson process, whether or not earlier ones have been answered, by this process on the same processors.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from benchmarks.markdown import markdown
from benchmarks.serving.models import compiled
from benchmarks.serving.run import LIMITS
from benchmarks.serving.servers import started
from recfx.serve.load.figures import largest_rate
from recfx.serve.load.inputs import Pool, http_request, pool_of_model
from recfx.serve.load.run import Load, poisson_load, precise_load
from recfx.serve.outcomes import Reason
from recfx.serve.simulator.arrivals import FlashCrowd
from recfx.serve.simulator.query_sizes import QuerySizes

#: Seconds before the crowd, and after it.
_BEFORE, _AFTER = 5.0, 20.0
#: The load before and after the crowd, as a share of the capacity.
_QUIET = 0.3
#: Seconds between two looks at the state of the server.
_LOOK = 0.1
#: The statuses of requests that were refused: too many, too late, closing.
_REFUSED = (429, 503, 504)


@dataclasses.dataclass(frozen=True)
class Look:
    """The state of the server at one time.

    Attributes:
        seconds: Since the begin of the load.
        variant: The form of the model that answers.
        waiting: Requests in its queue.
        late: Requests that it has answered after their time limit.
        given_up: Requests that it has admitted and refused after all.
    """

    seconds: float
    variant: str
    waiting: int
    late: int = 0
    given_up: int = 0


@dataclasses.dataclass(frozen=True)
class Crowd:
    """What happened.

    Attributes:
        capacity: Requests per second that the server answers within the limit.
        begin: When the crowd began, in seconds.
        end: When it ended.
        load: All requests.
        looks: The states of the server, the first of them before all requests and the last one after them.
    """

    capacity: float
    begin: float
    end: float
    load: Load
    looks: list[Look]

    def rows(self, limit: float) -> list[list[str]]:
        """The figures, as names and texts."""
        inside = (self.load.due >= self.begin) & (self.load.due < self.end)
        refused = np.isin(self.load.status, _REFUSED)
        other = ~refused & ~self.load.answered
        answered = self.load.seconds[inside & self.load.answered]
        turned = (self.load.done - self.load.sent)[refused]
        first, last = self.looks[0], self.looks[-1]
        given_up, late = last.given_up - first.given_up, last.late - first.late
        later = [look.seconds for look in self.looks if look.variant != first.variant]
        return [
            ["capacity, requests/s", f"{self.capacity:.0f}"],
            ["offered in the crowd, requests/s", f"{inside.sum() / (self.end - self.begin):.0f}"],
            ["answered in the crowd, requests/s", f"{len(answered) / (self.end - self.begin):.0f}"],
            [f"p99 of the answered, ms (limit {limit * 1e3:g})", _milliseconds(answered)],
            ["p99.9 and slowest of them, ms", f"{_milliseconds(answered, 0.999)}, {_milliseconds(answered, 1.0)}"],
            ["answered late, by the server's clock", f"{late}"],
            ["refused on arrival", f"{refused.sum() - given_up}"],
            ["admitted and then given up", f"{given_up}"],
            [
                "p50, p99 and slowest of refusals, ms",
                ", ".join(_milliseconds(turned, share) for share in (0.5, 0.99, 1.0)),
            ],
            ["neither answered nor refused", f"{other.sum()}"],
            ["longest queue, requests", f"{max(look.waiting for look in self.looks)}"],
            [
                "first form again after the crowd, s",
                f"{max(max(later) - self.end, 0.0):.1f}" if later else "never left",
            ],
            ["generator late, p99, ms", f"{self.load.lateness * 1e3:.2f}"],
        ]


def _milliseconds(times: np.ndarray, share: float = 0.99) -> str:
    return f"{np.quantile(times, share, method='higher') * 1e3:.2f}" if len(times) else "-"


def run(name: str, sizes: str, seconds: float, factor: float) -> str:
    """The table of a model.

    Args:
        name: A key of `benchmarks.serving.models.MODELS`.
        sizes: Rows of a request, as in `recfx bench serve`.
        seconds: Length of the crowd.
        factor: Its load, as a multiple of the capacity.
    """
    limit = LIMITS[name]
    with tempfile.TemporaryDirectory() as held:
        folders = [Path(held) / f"{form}.recfx" for form in ("fp32", "int8")]
        models = [compiled(name), compiled(name, precision="int8")]
        for model, folder in zip(models, folders, strict=True):
            model.save(folder)
        pool = pool_of_model(models[0])
        del models
        command = f"-m recfx serve model={folders[0]}:1,{folders[1]}:0.9 --timeout {limit * 1e3:g} --port {{port}}"
        with started("recfx serve", command.split()) as (port, _):
            found = measure(port, pool, sizes, limit, seconds, factor)
    where = json.dumps(environment(("uvicorn",)))
    return f"{where}\n\n{name}, rows of a request: {sizes}\n\n{markdown(['figure', 'value'], found.rows(limit), {1})}"


def measure(port: int, pool: Pool, sizes: str, limit: float, seconds: float, factor: float) -> Crowd:
    """Finds the capacity of a running server, and sends the crowd.

    Args:
        port: Its port on this machine.
        pool: Rows for requests.
        sizes: See `run`.
        limit: Seconds of p99 within which it has to answer.
        seconds: See `run`.
        factor: See `run`.
    """
    generator = np.random.default_rng(0)
    drawn = QuerySizes.of(sizes).draw(128, generator)
    requests = [http_request(f"127.0.0.1:{port}", "model", pool.draw(int(n), generator)) for n in drawn]

    def trial(rate: float) -> Load:
        return poisson_load(("127.0.0.1", port), requests, rate, 2.0, 0.5, generator)

    trial(20.0)
    capacity = largest_rate(trial, limit, first=100.0)
    arrivals = FlashCrowd(_QUIET * capacity, factor / _QUIET, _BEFORE, seconds)
    due = np.concatenate(list(arrivals.blocks(_BEFORE + seconds + _AFTER, generator)))
    time.sleep(4.0)  # the trials above the capacity are over, and the first form answers again
    with _watched(port) as looks:
        load = precise_load("127.0.0.1", port, requests, due, most_connections=900)
    return Crowd(capacity, _BEFORE, _BEFORE + seconds, load, looks)


@contextmanager
def _watched(port: int) -> Iterator[list[Look]]:
    """Looks at the state of the server now and then."""
    looks: list[Look] = []
    ended = threading.Event()
    begin = time.monotonic()

    def watch() -> None:
        while not ended.wait(_LOOK):
            looks.append(look())

    def look() -> Look:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
            (model,) = json.load(answer)["models"]
        held = model["variant"], model["waiting"], model["late"], model["rejected"].get(Reason.GIVEN_UP.value, 0)
        return Look(time.monotonic() - begin, *held)

    looks.append(look())
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()
        looks.append(look())


def main(name: str, sizes: str, seconds: float, factor: float) -> int:
    """Prints the table."""
    sys.stdout.write(run(name, sizes, seconds, factor) + "\n")
    return 0
