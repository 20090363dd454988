"""`Siblings`: processes that share a port, and show the metrics of all of them whichever process is asked.

Each process listens on a socket of its own in a folder that only their user can enter. A process that is asked for metrics reads those of
the others there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger("recfx.serve")

#: A process that does not answer in this time is left out.
_SECONDS = 1.0


class Siblings:
    """The processes that share a port.

    Args:
        folder: The folder of their sockets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}.socket"
        self._server: asyncio.Server | None = None

    async def listen(self, figures: Callable[[], bytes]) -> None:
        """Answers the others.

        Args:
            figures: The metrics of this process.
        """

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(figures())
                await writer.drain()
            writer.close()

        self._own.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(answer, self._own)

    async def others(self) -> list[bytes]:
        """The metrics of the other processes; those that do not answer are left out."""
        places = [place for place in sorted(self._folder.glob("*.socket")) if place != self._own]
        found = await asyncio.gather(*map(self._ask, places))
        return [text for text in found if text]

    async def _ask(self, place: Path) -> bytes:
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_unix_connection(place)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except ConnectionRefusedError:
            place.unlink(missing_ok=True)  # its process has ended
        except (OSError, TimeoutError) as error:
            _log.warning("the metrics of a process are left out: %s", error or "it does not answer")
        return b""

    async def close(self) -> None:
        """Answers no more."""
        if self._server is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)
