"""A function in a forked process, which can be killed. Unlike a fresh process it does not import torch again, which takes seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


class Child:
    """A forked process; it ends with its parent at the latest when it tells the next line.

    Args:
        run: The function. It gets a function that tells the parent a line, and ends the process with status 0, or 1 after an error.
    """

    def __init__(self, run: Callable[[Callable[[object], object]], object]) -> None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                os.close(reader)
                run(lambda line: os.write(writer, f"{line}\n".encode()))
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        self._told = os.fdopen(reader)

    def line(self) -> str:
        """The next line that the process tells; waits for it. Empty if it ended."""
        return self._told.readline().rstrip("\n")

    def kill(self) -> list[str]:
        """Ends the process by SIGKILL; returns the lines that it told before."""
        os.kill(self._pid, signal.SIGKILL)
        lines = self._told.read().split("\n")[:-1]
        self.wait()
        return lines

    def wait(self) -> int:
        """The exit code of the process, when it has ended; the negative signal if one ended it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._told.close()
        return code
