"""The command `recfx serve`: its options, and the server that they describe."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recfx.command_line import minutes, positive, seconds
from recfx.errors import InputError

if TYPE_CHECKING:
    from recfx.serve.models import Source
    from recfx.serve.plan import ServerPlan
    from recfx.serve.processes import ServerProcesses
    from recfx.serve.server import Server
    from recfx.serve.tracing import TracingSettings
    from recfx.serve.updates import UpdateSettings

_MODELS = """\
folders of saved models, such as deepfm.recfx, which is served as deepfm; NAME=FOLDER gives another name, and
NAME=FOLDER[:METRIC],FOLDER[:METRIC] serves variants of one model, the best first: under load, quicker variants answer"""

#: Variables of Ray Serve, read when it is imported, that other settings of it change: threads of the server wait for the answers
#: of replicas, and the server takes the place of Ray's proxies, which do not go with its routing.
_RAY = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1", "RAY_SERVE_ENABLE_HA_PROXY": "0"}


def add_serve(serve: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = serve.add_argument
    add("models", nargs="+", metavar="MODEL", help=_MODELS)
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine alone can connect)")
    add("--port", type=_port, default=8000, help="port of HTTP; 0 for a free one (default: %(default)s)")
    add("--grpc-port", type=_port, help="port of gRPC; 0 for a free one (default: no gRPC)")
    add(
        "--workers",
        type=positive,
        default=1,
        help="processes that share the port and the tables (default: %(default)s)",
    )
    add("--calls", type=positive, help="calls of a model at a time in each process (default: one for each processor)")
    add("--threads", type=positive, default=1, help="threads of each call (default: %(default)s)")
    add(
        "--batch-rows",
        type=positive,
        default=1024,
        help="rows of a call that several requests share (default: %(default)s)",
    )
    add("--no-split", action="store_true", help="do not divide a large request over workers that wait")
    add(
        "--wait", type=_milliseconds, default=0.0, metavar="MS", help="how long a request waits for others (default: 0)"
    )
    add(
        "--timeout",
        type=_limit,
        metavar="MS",
        help="requests whose answers would take longer are refused when they arrive (default: none)",
    )
    add(
        "--grace",
        type=_milliseconds,
        default=math.inf,
        metavar="MS",
        help="how late a request that was admitted may be answered, if calls take longer than predicted; 0 refuses it as soon as its "
        "time cannot be kept (default: however late)",
    )
    add("--most-queued", type=positive, default=1024, help="requests that wait at most (default: %(default)s)")
    add("--most-bytes", type=positive, default=64 << 20, help="bytes of a body at most (default: %(default)s)")
    add("--most-connections", type=positive, default=1000, help="connections at a time (default: %(default)s)")
    add(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="S",
        help="time to answer what waits at the end (default: %(default)s)",
    )
    add("--tokens", type=Path, metavar="FILE", help="bearer tokens, one in a line, each with the name of its tenant")
    add("--tenant-rows", type=positive, metavar="ROWS", help="rows of each tenant in a second (default: no limit)")
    add(
        "--allow-updates",
        action="store_true",
        help="take new rows of tables over HTTP and gRPC, and keep them in a journal beside each model",
    )
    add("--updaters", metavar="TENANT,...", help="tenants that may send new rows (default: every client)")
    add(
        "--update-sync",
        choices=("process", "disk"),
        default="process",
        help="new rows are kept when the journal survives the end of the process, or a loss of power (default: %(default)s)",
    )
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where models run: in this program, or in replicas on a Ray cluster (default: %(default)s)",
    )
    add("--ray-address", metavar="HOST:PORT", help="the Ray cluster (default: that of this machine, or a new one)")
    add(
        "--replicas",
        type=_replicas,
        default=1,
        metavar="N|LEAST:MOST",
        help="replicas on the cluster; a range follows the load (default: %(default)s)",
    )
    add(
        "--routing",
        choices=("peak-ewma", "prequal", "power-of-two", "least-in-flight", "round-robin"),
        default="peak-ewma",
        help="how replicas are chosen (default: %(default)s)",
    )
    add("--logs", choices=("text", "json"), default="text", help="form of the log (default: %(default)s)")
    add(
        "--otel",
        metavar="URL",
        help="send spans of requests to this OpenTelemetry collector, such as http://127.0.0.1:4318 (default: what OTEL_* variables say)",
    )
    add("--certificate", type=Path, metavar="FILE", help="TLS certificate in PEM format")
    add("--key", type=Path, metavar="FILE", help="its private key")
    serve.set_defaults(run=run_serve)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _replicas(text: str) -> int | tuple[int, int]:
    """A number of replicas, or the least and the greatest."""
    least, found, most = text.partition(":")
    if not found:
        return positive(text)
    limits = positive(least), positive(most)
    if limits[0] > limits[1]:
        raise argparse.ArgumentTypeError(f"expected LEAST:MOST, got {text!r}")
    return limits


def _milliseconds(text: str) -> float:
    """A time of at least 0 in milliseconds, as seconds."""
    return minutes(text) / 1e3


def _limit(text: str) -> float:
    """A time above 0 in milliseconds, as seconds."""
    return seconds(text) / 1e3


def run_serve(options: argparse.Namespace) -> int:
    """Serves until the process is told to end."""
    from recfx.serve.packages import require

    require(grpc=options.grpc_port is not None)
    named = [read_model(text) for text in options.models]
    from recfx.serve.logs import configure

    configure(options.logs)
    plan = plan_of(options, named)
    if options.engine == "ray":
        _serve_on_ray(options, plan, named)
        return 0
    if options.workers == 1:
        plan.make().run(ready=lambda started: _announce(started, named))
        return 0
    from recfx.serve.processes import ServerProcesses

    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "models"}
    processes = ServerProcesses(dict(plan.models), options.workers, **fields)
    return processes.run(ready=lambda started: _announce_processes(started, named, options.workers))


def _serve_on_ray(options: argparse.Namespace, plan: ServerPlan, named: list[tuple[str, list[Source]]]) -> None:
    from recfx.serve.packages import require_ray
    from recfx.serve.policies.scaling import ScalingConfig

    if options.workers != 1:
        raise InputError(
            "--workers does not go with --engine ray",
            where="--engine ray",
            hint="pass --replicas for more processes",
        )
    require_ray()
    os.environ.update(_RAY)
    from recfx.serve.ray.front import serve_on_ray

    limits = options.replicas
    replicas = limits if isinstance(limits, int) else ScalingConfig(least=limits[0], most=limits[1])
    serve_on_ray(plan, replicas, options.routing, options.ray_address, ready=lambda started: _announce(started, named))


def plan_of(options: argparse.Namespace, named: list[tuple[str, list[Source]]]) -> ServerPlan:
    """The plan of the server that the options describe.

    Raises:
        InputError: An option does not fit.
    """
    from recfx.serve.engine.settings import EngineSettings
    from recfx.serve.plan import ServerPlan
    from recfx.serve.policies.tenants import TenantConfig, TenantLimit
    from recfx.serve.protocol.limits import HttpSettings
    from recfx.serve.server import ServerSettings

    chosen: dict[str, Any] = {} if options.calls is None else {"workers": options.calls}
    engine = EngineSettings(
        threads=options.threads,
        batch_rows=options.batch_rows,
        split=not options.no_split,
        most_wait=options.wait,
        timeout=options.timeout,
        grace=options.grace,
        most_queued=options.most_queued,
        **chosen,
    )
    settings = ServerSettings(
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        most_connections=options.most_connections,
        drain=options.drain,
        certificate=options.certificate,
        key=options.key,
    )
    http = HttpSettings(most_bytes=options.most_bytes, tokens=read_tokens(options.tokens) if options.tokens else {})
    limit = None
    if options.tenant_rows is not None:
        limit = TenantConfig(TenantLimit(options.tenant_rows, float(options.tenant_rows)))
    updates, tracing = update_settings(options), tracing_settings(options)
    return ServerPlan(named, settings, engine, http, limit, updates, options.logs, tracing)


def tracing_settings(options: argparse.Namespace) -> TracingSettings | None:
    """Where spans are sent; None for none.

    Raises:
        InputError: --otel is not an address.
        TargetError: --otel needs packages that are not installed.
    """
    from recfx.serve.packages import require_otel
    from recfx.serve.tracing import TracingSettings, settings_of_environment

    if options.otel is None:
        return settings_of_environment(os.environ)
    require_otel()
    return TracingSettings(options.otel)


def update_settings(options: argparse.Namespace) -> UpdateSettings | None:
    """Who may send new rows of tables; None if nobody may.

    Raises:
        InputError: Tenants are named, but updates are not allowed or nobody has a token.
    """
    from recfx.serve.updates import UpdateSettings

    tenants = frozenset(options.updaters.split(",")) if options.updaters else frozenset[str]()
    if tenants and not (options.allow_updates and options.tokens):
        raise InputError(
            "tenants that may send new rows are named, but no tokens or no updates are allowed",
            where="--updaters",
            hint="pass --allow-updates and --tokens as well",
        )
    return UpdateSettings(tenants, options.update_sync) if options.allow_updates else None


def read_model(text: str) -> tuple[str, list[Source]]:
    """A name and the variants of a model from an argument such as deepfm=fp32.recfx:0.81,int8.recfx:0.809.

    Raises:
        InputError: A folder does not exist, or a metric is not a number.
    """
    from recfx.serve.models import Source

    name, found, listed = text.partition("=")
    if not found or Path(text).exists():
        name, listed = "", text
    sources = []
    for part in [listed] if Path(listed).exists() else listed.split(","):
        folder, metric = part, 0.0
        if not Path(part).exists() and (match := re.fullmatch(r"(.+):([^:]*)", part)):
            folder = match[1]
            try:
                metric = float(match[2])
            except ValueError as error:
                raise InputError(
                    f"{match[2]!r} is not a metric", where=text, hint="such as model.recfx:0.81"
                ) from error
        if not Path(folder).is_dir():
            raise InputError(
                "no saved model there", where=folder, hint="pass folders that fast.save or recfx optimize -o wrote"
            )
        sources.append(Source(Path(folder), metric))
    return name or sources[0].name, sources


def read_tokens(path: Path) -> dict[str, str]:
    """Token -> tenant from a file with a token and a tenant in each line; lines of # are comments.

    Raises:
        InputError: The file cannot be read, or a line holds something else.
    """
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the tokens: {error}",
            where=str(path),
            hint="pass an ASCII file with TOKEN TENANT in each line",
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or words[0] in found:
            raise InputError(
                "expected TOKEN TENANT, each token once",
                where=f"{path}, line {number}",
                hint="names of tenants have no blanks",
            )
        found[words[0]] = words[1] if len(words) > 1 else ""
    if not found:
        raise InputError(
            "the file has no token", where=str(path), hint="write a token and the name of its tenant in each line"
        )
    return found


def _announce(server: Server, named: list[tuple[str, list[Source]]]) -> None:
    import sys

    names = ", ".join(name for name, _ in named)
    grpc = "" if server.grpc_address is None else f", gRPC at {server.grpc_address}"
    sys.stdout.write(f"serving {names} at {server.address}{grpc}\n")
    sys.stdout.flush()


def _announce_processes(processes: ServerProcesses, named: list[tuple[str, list[Source]]], count: int) -> None:
    import sys

    sys.stdout.write(f"serving {', '.join(name for name, _ in named)} at {processes.address} in {count} processes\n")
    sys.stdout.flush()
