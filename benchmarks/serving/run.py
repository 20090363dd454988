"""python -m benchmarks serving: the largest load of each server within a limit of time, and the cost of a request of one row."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from benchmarks.markdown import markdown
from benchmarks.serving.models import MODELS, compiled
from benchmarks.serving.servers import server
from recfx.serve.load.figures import largest_rate
from recfx.serve.load.inputs import Pool, http_request, pool_of_model
from recfx.serve.load.run import Load, poisson_load, precise_load
from recfx.serve.packages import require_ray
from recfx.serve.simulator.query_sizes import QuerySizes

SERVERS = ("recfx serve", "FastAPI, compiled", "FastAPI, eager")
#: Servers of the same compiled model, of which two need Ray Serve.
ON_RAY = ("recfx serve", "recfx serve, Ray", "@serve.batch")
#: Seconds of p99 within which a server has to answer, by model.
LIMITS = {"dlrm": 0.025, "deepfm": 0.025, "din": 0.1}


@contextmanager
def _saved(name: str) -> Iterator[tuple[Path, Pool]]:
    """The folder of a compiled model, and requests to it."""
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held) / "model.recfx"
        fast = compiled(name)
        fast.save(folder)
        yield folder, pool_of_model(fast)


def on_ray(names: Sequence[str], sizes: str, seconds: float) -> str:
    """The table of the servers beside Ray Serve's own batching.

    Args:
        names: Models.
        sizes: Rows of a request, as in `recfx bench serve`.
        seconds: Length of each trial.
    """
    rows = []
    for name in names:
        with _saved(name) as (folder, pool):
            rates = [_largest(each, name, folder, pool, sizes, seconds) for each in ON_RAY]
        ratios = [f"{rate / rates[-1]:.2f}" if rates[-1] else "-" for rate in rates[:-1]]
        rows.append([name, f"{LIMITS[name] * 1e3:.0f} ms", *(f"{rate:.0f}" for rate in rates), *ratios])
    titles = ["model", "p99", *ON_RAY, *(f"{each} / {ON_RAY[-1]}" for each in ON_RAY[:-1])]
    table = markdown(titles, rows, set(range(1, len(titles))))
    where = json.dumps(environment(("ray", "fastapi", "uvicorn")))
    return f"{where}\n\nRows of a request: {sizes}; requests per second.\n\n{table}"


def run(names: Sequence[str], sizes: str, seconds: float) -> str:
    """The table of all models.

    Args:
        names: Models.
        sizes: Rows of a request, as in `recfx bench serve`.
        seconds: Length of each trial.
    """
    rows = []
    for name in names:
        with _saved(name) as (folder, pool):
            found = {each: _largest(each, name, folder, pool, sizes, seconds) for each in SERVERS}
            bare, own = _single(name, folder, pool)
        row = [name, f"{LIMITS[name] * 1e3:.0f} ms", *(f"{rate:.0f}" for rate in found.values())]
        first, *others = found.values()
        row += [f"{first / rate:.2f}" if rate else "-" for rate in others]
        rows.append([*row, f"{bare * 1e3:.3f}", f"{own * 1e3:.3f}", f"{(own - bare) * 1e3:.3f}"])
    titles = ["model", "p99", *SERVERS, *(f"× {peer}" for peer in SERVERS[1:]), "echo, ms", "one row, ms", "difference"]
    table = markdown(titles, rows, set(range(1, len(titles))))
    where = json.dumps(environment(("fastapi", "uvicorn")))
    return f"{where}\n\nRows of a request: {sizes}; requests per second.\n\n{table}"


def _largest(which: str, name: str, folder: Path, pool: Pool, sizes: str, seconds: float) -> float:
    """The largest rate of a server within the limit, in requests per second."""
    generator = np.random.default_rng(0)
    drawn = QuerySizes.of(sizes).draw(128, generator)
    with server(which, name, folder) as port:
        requests = [http_request(f"127.0.0.1:{port}", "model", pool.draw(int(n), generator)) for n in drawn]

        def trial(rate: float) -> Load:
            return poisson_load(("127.0.0.1", port), requests, rate, seconds, 0.5, generator)

        def told(rate: float, p99: float) -> None:
            sys.stderr.write(f"{name}, {which}: {rate:.0f} requests/s, p99 {p99 * 1e3:.1f} ms\n")

        trial(20.0)
        return largest_rate(trial, LIMITS[name], first=100.0, told=told)


def _single(name: str, folder: Path, pool: Pool) -> tuple[float, float]:
    """The median time of a request of one row, one after another: of a bare echo, and of recfx serve, in turns."""
    times: dict[str, list[float]] = {"echo": [], "recfx serve": []}
    generator = np.random.default_rng(0)
    with server("echo", name, folder) as bare, server("recfx serve", name, folder) as own:
        for _ in range(5):
            for which, port in (("echo", bare), ("recfx serve", own)):
                requests = [http_request(f"127.0.0.1:{port}", "model", pool.draw(1, generator)) for _ in range(16)]
                due = np.arange(600, dtype=np.float64) * np.float64(0.002)
                load = precise_load("127.0.0.1", port, requests, due).after(0.2)
                times[which] += list(load.done - load.sent)
    return float(np.median(times["echo"])), float(np.median(times["recfx serve"]))


def main(models: Sequence[str], sizes: str, seconds: float, *, ray: bool = False) -> int:
    """Prints the table; every model by default.

    Args:
        models: See `run`.
        sizes: Likewise.
        seconds: Likewise.
        ray: Whether recfx stands beside Ray Serve's own batching, in place of plain web applications.

    Raises:
        TargetError: Ray Serve is not installed.
    """
    if ray:
        require_ray()
    sys.stdout.write((on_ray if ray else run)(models or list(MODELS), sizes, seconds) + "\n")
    return 0
