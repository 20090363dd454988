"""The command `recfx bench serve`: an open-loop load on a server of the Open Inference Protocol."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recfx.command_line import add_option, positive, seconds
from recfx.errors import InputError

if TYPE_CHECKING:
    from recfx.serve.load.inputs import Pool
    from recfx.serve.load.run import Load

#: Requests and seconds of a load that is drawn, and the number of different requests.
_RATE, _SECONDS, _BODIES = 100.0, 10.0, 256


def add_bench_serve(bench: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = bench.add_argument
    add("url", help="address of the server, such as http://127.0.0.1:8000")
    add("--name", help="name of the model (default: that of the folder of --model)")
    add("--model", type=Path, help="folder of the saved model: ids are drawn from the range of its tables")
    add("--examples", type=Path, metavar="FILE.npz", help="rows to draw requests from, an array for each input")
    add("--rate", type=seconds, help="requests per second (default: 100, or that of --trace)")
    add(
        "--trace",
        type=Path,
        metavar="FILE.csv",
        help="requests at recorded times: a first line `seconds` or `seconds,rows`",
    )
    add("--sla", type=seconds, metavar="MS", help="search the largest rate whose p99 stays within this time")
    add(
        "--sizes",
        help="rows of a request: a number, normal:165,16, deeprecsys or mlperf (default: 1, or the rows of --trace)",
    )
    add("--seconds", type=seconds, help="length of the load, or of each trial (default: 10, or the whole trace)")
    add(
        "--warm-up",
        type=seconds,
        default=1.0,
        metavar="S",
        help="the first seconds do not count (default: %(default)s)",
    )
    add("--connections", type=positive, default=256, help="connections at most (default: %(default)s)")
    add("--token", help="bearer token")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw load, times and active variant over time (.svg, or .png with matplotlib)",
    )
    add_option(bench, "seed", 0)
    bench.set_defaults(run=_bench_serve)


def _bench_serve(options: argparse.Namespace) -> int:
    from recfx.serve.packages import require

    require()
    place = urlsplit(options.url)
    if place.scheme != "http" or not place.hostname:
        raise InputError(f"{options.url!r} is not an address", where="url", hint="such as http://127.0.0.1:8000")
    if options.plot is not None:
        _require_drawable(options)
    name, trial = _trial(options, (str(place.hostname), place.port or 80), place.netloc)
    if options.sla is not None:
        return _search(options, trial)
    return _one_load(options, name, trial, (str(place.hostname), place.port or 80))


def _require_drawable(options: argparse.Namespace) -> None:
    """Checks that the picture can be drawn.

    Raises:
        InputError: There is no single load, or the file has another ending.
        TargetError: matplotlib is missing.
    """
    from recfx.serve.load.plot import require_drawable

    if options.sla is not None:
        raise InputError(
            "a search has many loads", where="--plot", hint="leave out --sla, and pass the rate to draw by --rate"
        )
    require_drawable(options.plot)


def _trial(
    options: argparse.Namespace, where: tuple[str, int], netloc: str
) -> tuple[str, Callable[[float | None], Load]]:
    """The name of the model, and the function that runs a load at a rate (None: that of the trace, or 100)."""
    import numpy as np

    from recfx.serve.load.inputs import http_request
    from recfx.serve.load.run import poisson_load
    from recfx.serve.load.trace import read_requests
    from recfx.serve.load.trace_load import trace_load
    from recfx.serve.simulator.query_sizes import QuerySizes

    trace = None if options.trace is None else read_requests(options.trace)
    if trace is not None and trace.rows is not None and options.sizes is not None:
        raise InputError("the trace has the rows of its requests", where="--sizes", hint="leave out --sizes")
    name, pool = _pool(options)
    generator = np.random.default_rng(options.seed)
    more = [f"Authorization: Bearer {options.token}"] if options.token else []

    def request(rows: int) -> bytes:
        return http_request(netloc, name, pool.draw(rows, generator), more)

    if trace is not None:
        given, drawn = trace, QuerySizes.of(options.sizes or "1").draw(_BODIES, generator).tolist()

        def replay(rate: float | None) -> Load:
            used = given if rate is None else given.at_rate(rate)
            used = used if options.seconds is None else used.before(options.seconds + options.warm_up)
            return trace_load(where, request, used, drawn, options.warm_up, options.connections)

        return name, replay
    requests = [request(int(rows)) for rows in QuerySizes.of(options.sizes or "1").draw(_BODIES, generator)]

    def arrive(rate: float | None) -> Load:
        length = options.seconds or _SECONDS
        return poisson_load(where, requests, rate or _RATE, length, options.warm_up, generator, options.connections)

    return name, arrive


def _search(options: argparse.Namespace, trial: Callable[[float | None], Load]) -> int:
    from recfx.serve.load.figures import largest_rate

    found = largest_rate(trial, options.sla / 1e3, first=options.rate or _RATE, told=_tell)
    sys.stdout.write(f"{found:.0f} requests/s within {options.sla:g} ms at p99, rows {_rows_text(options)}\n")
    return 0


def _one_load(
    options: argparse.Namespace, name: str, trial: Callable[[float | None], Load], where: tuple[str, int]
) -> int:
    from rich.console import Console
    from rich.table import Table

    from recfx.serve.load.figures import described
    from recfx.serve.load.variants import WatchedVariant

    watched = WatchedVariant(*where, name, options.token)
    with watched if options.plot is not None else nullcontext():
        load = trial(options.rate)
    title = f"{name} at {options.url}, rows {_rows_text(options)}"
    table = Table(title=title, show_header=False)
    for row in described(load, options.rate or (_RATE if options.trace is None else None)):
        table.add_row(*row)
    Console().print(table)
    if options.plot is not None and len(load.due):
        from recfx.serve.load.plot import draw

        draw(options.plot, load, watched.seen, title)
        sys.stdout.write(f"drawn in {options.plot}\n")
    return 0 if load.answered.any() else 1


def _rows_text(options: argparse.Namespace) -> str:
    return options.sizes or ("1" if options.trace is None else f"of {options.trace.name}")


def _tell(rate: float, p99: float) -> None:
    """Prints the result of a trial."""
    sys.stdout.write(f"{rate:8.0f} requests/s: p99 {p99 * 1e3:.2f} ms\n")


def _pool(options: argparse.Namespace) -> tuple[str, Pool]:
    """The name of the model and the rows to draw from.

    Raises:
        InputError: The model, or its name, is not known.
    """
    from recfx.serve.load.inputs import pool_of_file, pool_of_model

    if (options.model is None) == (options.examples is None):
        raise InputError("requests are drawn for a saved model or from examples", hint="pass --model or --examples")
    name = options.name or (options.model.stem if options.model is not None else None)
    if name is None:
        raise InputError("the name of the model is not known", hint="pass --name")
    return name, pool_of_model(options.model) if options.model is not None else pool_of_file(options.examples)
