"""`Connections`: HTTP connections that are kept open, each with one request at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import httptools


class _Connection(asyncio.Protocol):
    """One connection; `ask` sends a request and returns the status of its answer."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[int] | None = None
        self.transport: Any = None
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.transport.close()
            self.closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(self._parser.get_status_code())

    async def ask(self, request: bytes) -> int:
        self._answered = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)
        return await self._answered


class Connections:
    """HTTP connections that are kept open, each with one request at a time.

    Args:
        host: The server.
        port: Its port.
        most: Connections at most; further requests wait for a free one.
    """

    def __init__(self, host: str, port: int, most: int) -> None:
        self._place = host, port
        self._free: deque[_Connection] = deque()
        self._room = asyncio.Semaphore(most)

    async def ask(self, request: bytes) -> int:
        """Sends a request and returns the status of the answer; 0 if the connection failed."""
        async with self._room:
            connection = None
            while self._free and connection is None:
                connection = self._free.pop()
                if connection.closed:
                    connection = None
            try:
                if connection is None:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(_Connection, *self._place)
                status = await connection.ask(request)
            except OSError:
                return 0
            if not connection.closed:
                self._free.append(connection)
            return status

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._free:
            connection.transport.close()
