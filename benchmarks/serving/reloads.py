"""python -m benchmarks reloads: requests during hot reloads, and at the end of a server.

While a steady load runs, the model is loaded again and again; at last the server gets SIGTERM. Every request that was sent before that
must be answered.
"""

from __future__ import annotations

import collections
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
from subprocess import Popen

import numpy as np

from benchmarks.environment import environment
from benchmarks.markdown import markdown
from benchmarks.serving.models import compiled
from benchmarks.serving.servers import started
from recfx.serve.load.inputs import Pool, http_request, pool_of_model
from recfx.serve.load.run import Load, precise_load
from recfx.serve.simulator.arrivals import Poisson

#: Seconds between the end of one reload and the begin of the next.
_PAUSE = 0.5
#: The share of the requests after which the server is told to end.
_ENDED = 0.98


@dataclasses.dataclass(frozen=True)
class Reloads:
    """What happened.

    Attributes:
        load: All requests.
        count: Reloads that succeeded.
        ended: When the server was told to end, in seconds from the begin of the load.
    """

    load: Load
    count: int
    ended: float

    def before(self) -> Load:
        """The requests that were sent before the server was told to end."""
        kept = self.load.sent < self.ended
        return Load(self.load.due[kept], self.load.sent[kept], self.load.done[kept], self.load.status[kept])

    def rows(self) -> list[list[str]]:
        """The figures, as names and texts."""
        before = self.before()
        inside = (before.done > self.ended).sum()
        failed = before.status[~before.answered]
        statuses = ", ".join(f"{count} of status {status}" for status, count in collections.Counter(failed).items())
        return [
            ["requests", f"{len(before.due)}"],
            ["reloads", f"{self.count}"],
            ["in flight at SIGTERM", f"{inside}"],
            ["failed", f"{len(failed)}" + (f" ({statuses})" if statuses else "")],
            ["p50, p99, ms", f"{before.quantile(0.5) * 1e3:.2f}, {before.quantile(0.99) * 1e3:.2f}"],
        ]


def run(name: str, count: int, rate: float) -> str:
    """The table of a model.

    Args:
        name: A key of `benchmarks.serving.models.MODELS`.
        count: Requests.
        rate: Requests per second.
    """
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held) / "model.recfx"
        fast = compiled(name)
        fast.save(folder)
        pool = pool_of_model(fast)
        del fast
        with started("recfx serve", ["-m", "recfx", "serve", f"model={folder}", "--port", "{port}"]) as (port, process):
            found = measure(port, process, pool, count, rate)
    return f"{json.dumps(environment(('uvicorn',)))}\n\n{name}\n\n{markdown(['figure', 'value'], found.rows(), {1})}"


def measure(port: int, process: Popen[bytes], pool: Pool, count: int, rate: float) -> Reloads:
    """Sends requests of one row to a running server while it loads its model again and again.

    Args:
        port: Its port on this machine.
        process: Its process, which is told to end shortly before the last requests.
        pool: Rows for requests.
        count: See `run`.
        rate: See `run`.
    """
    generator = np.random.default_rng(0)
    requests = [http_request(f"127.0.0.1:{port}", "model", pool.draw(1, generator)) for _ in range(64)]
    due = np.concatenate(list(Poisson(rate).blocks(2.0 * count / rate, generator)))[:count]
    end = float(due[int(_ENDED * (len(due) - 1))])
    with _reloading(port, process, end) as (reloads, ended):
        load = precise_load("127.0.0.1", port, requests, due)
    return Reloads(load, len(reloads), ended[0])


@contextmanager
def _reloading(port: int, process: Popen[bytes], end: float) -> Iterator[tuple[list[float], list[float]]]:
    """Reloads the model until `end`, and then ends the server.

    Gives the times of the reloads, and that of the signal, in seconds from now.
    """
    begin = time.monotonic()
    reloads: list[float] = []
    ended: list[float] = []
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v2/repository/models/model/load", b"{}", method="POST")

    def reload() -> None:
        while time.monotonic() - begin < end:
            with urllib.request.urlopen(asked, timeout=120):
                reloads.append(time.monotonic() - begin)
            time.sleep(min(_PAUSE, max(end - (time.monotonic() - begin), 0.0)))
        ended.append(time.monotonic() - begin)
        process.terminate()

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield reloads, ended
    finally:
        thread.join()


def main(name: str, count: int, rate: float) -> int:
    """Prints the table."""
    sys.stdout.write(run(name, count, rate) + "\n")
    return 0
