"""`Server`: serves models over HTTP and gRPC until it is told to end, and then answers what it has taken."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import uvicorn

from recfx.compiled import CompiledModel
from recfx.errors import InputError, RecfxError, TargetError
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.http.app import App
from recfx.serve.http.metrics import own_figures
from recfx.serve.http.protocol import timed_protocol
from recfx.serve.models import Models
from recfx.serve.policies.tenants import TenantConfig
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.recommender.recommender import Recommender
from recfx.serve.siblings import Siblings
from recfx.serve.tracing import Tracing
from recfx.serve.updates import UpdateSettings

_log = logging.getLogger("recfx.serve")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and how it ends.

    Attributes:
        host: The address to listen on; by default this machine alone can connect.
        port: The port of HTTP; 0 for a free one.
        grpc_port: The port of gRPC; 0 for a free one, None for no gRPC.
        most_connections: Connections at a time; further ones get status 503.
        keep_alive: Seconds that an idle connection is kept.
        drain: Seconds to answer what has been taken, when the server ends.
        certificate: The file of the TLS certificate; None for no TLS.
        key: The file of its private key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    most_connections: int = 1000
    keep_alive: int = 30
    drain: float = 10.0
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < 65536):
                raise InputError(f"{value!r} is not a port", where=name, hint="pass a number from 0 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS needs a certificate and its key", where="certificate, key", hint="pass both files")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError("no such file", where=str(path), hint="pass files in PEM format")


class Server:
    """Serves models over the Open Inference Protocol (v2).

    As a context manager it runs in a thread of its own:

        with recfx.serve.Server({"deepfm": fast}, port=0) as server:
            print(server.address)

    Args:
        models: Name -> compiled model, recommender, or the folder of a saved one.
        host: See `ServerSettings`.
        port: See `ServerSettings`.
        grpc_port: See `ServerSettings`.
        settings: All settings of the server, in place of `host`, `port` and `grpc_port`.
        engine: Limits and threads of each model.
        http: Limits and tokens of the HTTP interface.
        tenants: Limits per tenant.
        updates: Who may send new rows of tables; None if nobody may.
        siblings: The processes that share its port; `ServerProcesses` makes them.
        tracing: Makes spans of requests; `TracingSettings.make` sends them to a collector. The server closes it at its end.

    Raises:
        RecfxError: A model cannot be loaded or served.
    """

    def __init__(
        self,
        models: Mapping[str, CompiledModel | Recommender | str | Path] | Models,
        host: str = "127.0.0.1",
        port: int = 8000,
        grpc_port: int | None = None,
        *,
        settings: ServerSettings | None = None,
        engine: EngineSettings | None = None,
        http: HttpSettings | None = None,
        tenants: TenantConfig | None = None,
        updates: UpdateSettings | None = None,
        siblings: Siblings | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings or ServerSettings(host=host, port=port, grpc_port=grpc_port)
        if isinstance(models, Models):
            self.models = models
        else:
            self.models = Models(engine, tenants, updates)
            for name, model in models.items():
                self.models.add(model, name)
        self.http = http or HttpSettings()
        self._siblings = siblings
        self._tracing = tracing
        self._app = App(self.models, self.http, siblings, tracing)
        self._server: uvicorn.Server | None = None
        self._grpc: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None

    @property
    def address(self) -> str:
        """The address of HTTP, such as http://127.0.0.1:8000.

        Raises:
            InputError: The server does not listen yet.
        """
        if self._socket is None:
            raise InputError("the server does not listen yet", hint="call start first")
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if self.settings.certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def grpc_address(self) -> str | None:
        """The address of gRPC, such as 127.0.0.1:8001; None without gRPC."""
        return None if self._grpc is None else f"{self.settings.host}:{self._grpc.port}"

    def start(self) -> Self:
        """Serves in a thread of its own, and returns when it listens.

        Raises:
            TargetError: It cannot listen there.
        """
        self._thread = threading.Thread(target=self._in_thread, name="recfx-server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def stop(self) -> None:
        """Takes no more requests, answers those it has taken, and ends."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self, sockets: list[socket.socket] | None = None, ready: Callable[[Self], None] | None = None) -> None:
        """Serves until SIGTERM or SIGINT; SIGHUP loads the folders of all models again.

        Args:
            sockets: A socket to listen on, in place of a new one.
            ready: Called when the server listens.

        Raises:
            TargetError: It cannot listen there.
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve(sockets, ready, signals=True))

    def _in_thread(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(None, None, signals=False))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that starts the server
            self._failure = error
        finally:
            self._started.set()

    async def _serve(
        self, sockets: list[socket.socket] | None, ready: Callable[[Self], None] | None, *, signals: bool
    ) -> None:
        try:
            if self._siblings is not None:
                await self._siblings.listen(lambda: own_figures(self.models))
            await self._listen(sockets, ready, signals=signals)
        finally:
            if self._siblings is not None:
                await self._siblings.close()
            if self._grpc is not None:
                await self._grpc.stop(self.settings.drain)
            if self._socket is not None:
                self._socket.close()
            await asyncio.to_thread(self.models.close, self.settings.drain)
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    async def _listen(
        self, sockets: list[socket.socket] | None, ready: Callable[[Self], None] | None, *, signals: bool
    ) -> None:
        settings = self.settings
        self._socket = sockets[0] if sockets else listening(settings.host, settings.port)
        config = uvicorn.Config(
            self._app,
            http=timed_protocol(self.http.read_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=settings.most_connections,
            timeout_keep_alive=settings.keep_alive,
            timeout_graceful_shutdown=max(int(settings.drain), 1),
            backlog=2048,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
        )
        self._server = server = _Uvicorn(config)
        self._loop = loop = asyncio.get_running_loop()
        if settings.grpc_port is not None:
            from recfx.serve.grpc.service import GrpcService

            pair = None
            if settings.certificate is not None and settings.key is not None:
                pair = settings.certificate.read_bytes(), settings.key.read_bytes()
            self._grpc = GrpcService(self.models, self.http, settings.host, settings.grpc_port, pair, self._tracing)
            await self._grpc.start()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._end)
            loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        serving = asyncio.ensure_future(server.serve([self._socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.002)
        if ready is not None and server.started:
            ready(self)
        self._started.set()
        await serving

    def _end(self) -> None:
        if self._server is not None:
            if self._server.should_exit:
                self._server.force_exit = True
            self._server.should_exit = True

    def _reload_all(self) -> None:
        assert self._loop is not None
        for engine in self.models:
            self._loop.run_in_executor(None, self._reload, engine.name)

    def _reload(self, name: str) -> None:
        try:
            self.models.reload(name)
        except RecfxError as error:
            _log.error("model %s goes on as it was: %s", name, error.in_one_line)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own handling of signals, which `Server` does."""

    def capture_signals(self) -> Any:
        """Leaves the signals alone."""
        return contextlib.nullcontext()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on an address of this machine.

    Raises:
        TargetError: The address is unknown, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except OSError as error:
        raise TargetError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}:{port}",
            hint="pass another port=, or end the program that has it",
        ) from error
    found.setblocking(False)
    return found
