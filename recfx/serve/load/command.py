"""The command `recfx bench serve`: an open-loop load on a server of the Open Inference Protocol."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recfx.command_line import add_option, positive, seconds
from recfx.errors import InputError

if TYPE_CHECKING:
    from recfx.serve.load.inputs import Pool
    from recfx.serve.load.run import Load


def add_bench_serve(bench: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = bench.add_argument
    add("url", help="address of the server, such as http://127.0.0.1:8000")
    add("--name", help="name of the model (default: that of the folder of --model)")
    add("--model", type=Path, help="folder of the saved model: ids are drawn from the range of its tables")
    add("--examples", type=Path, metavar="FILE.npz", help="rows to draw requests from, an array for each input")
    add("--rate", type=seconds, default=100.0, help="requests per second (default: %(default)s)")
    add("--sla", type=seconds, metavar="MS", help="search the largest rate whose p99 stays within this time")
    add("--sizes", default="1", help="rows of a request: a number, normal:165,16, deeprecsys or mlperf (default: 1)")
    add_option(bench, "seconds", 10.0, "length of the load, or of each trial (default: %(default)s)")
    add(
        "--warm-up",
        type=seconds,
        default=1.0,
        metavar="S",
        help="the first seconds do not count (default: %(default)s)",
    )
    add("--connections", type=positive, default=256, help="connections at most (default: %(default)s)")
    add("--token", help="bearer token")
    add_option(bench, "seed", 0)
    bench.set_defaults(run=_bench_serve)


def _bench_serve(options: argparse.Namespace) -> int:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from recfx.serve.load.figures import described, largest_rate
    from recfx.serve.load.inputs import http_request
    from recfx.serve.load.run import poisson_load
    from recfx.serve.packages import require
    from recfx.serve.simulator.query_sizes import QuerySizes

    require()
    place = urlsplit(options.url)
    if place.scheme != "http" or not place.hostname:
        raise InputError(f"{options.url!r} is not an address", where="url", hint="such as http://127.0.0.1:8000")
    name, pool = _pool(options)
    generator = np.random.default_rng(options.seed)
    more = [f"Authorization: Bearer {options.token}"] if options.token else []
    sizes = QuerySizes.of(options.sizes).draw(256, generator)
    requests = [http_request(place.netloc, name, pool.draw(int(rows), generator), more) for rows in sizes]

    def trial(rate: float) -> Load:
        where = str(place.hostname), place.port or 80
        return poisson_load(where, requests, rate, options.seconds, options.warm_up, generator, options.connections)

    if options.sla is None:
        load = trial(options.rate)
        table = Table(title=f"{name} at {options.url}, rows {options.sizes}", show_header=False)
        for row in described(load, options.rate):
            table.add_row(*row)
        Console().print(table)
        return 0 if load.answered.any() else 1
    found = largest_rate(trial, options.sla / 1e3, first=options.rate, told=_tell)
    sys.stdout.write(f"{found:.0f} requests/s within {options.sla:g} ms at p99, rows {options.sizes}\n")
    return 0


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
