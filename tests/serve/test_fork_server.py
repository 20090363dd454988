"""The process that forks servers: it starts as many as it is asked for, reports their ends, and ends with its connection."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest

from recfx.serve import fork_server
from recfx.serve.fork_server import START, parser

_PROGRAM = """
import os, socket, sys
from recfx.serve.fork_server import ForkServer
with ForkServer(socket.socket(fileno=int(sys.argv[1]))) as server:
    if server.serve():
        sys.exit(0)
os._exit(7)  # a forked process
"""


def test_processes_are_started_and_their_ends_are_reported() -> None:
    own, other = socket.socketpair()
    with own:
        with other:
            server = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(other.fileno())], pass_fds=[other.fileno()])
        own.settimeout(60)
        records = []
        with own.makefile("r") as lines:
            for _ in range(2):
                own.sendall(START)
            while len(records) < 4:
                records.append(json.loads(lines.readline()))
        started = [record["started"] for record in records if "started" in record]
        ended = {record["ended"]: record["status"] for record in records if "ended" in record}
        assert len(set(started)) == 2
        assert ended == dict.fromkeys(started, 7)
        assert server.pid not in started
        assert server.poll() is None
    assert server.wait(60) == 0  # its connection was closed


@pytest.mark.parametrize("missing", ["--socket", "--control", "--siblings"])
def test_its_parent_writes_all_arguments(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--socket": "3", "--control": "4", "--siblings": "folder"}
    arguments = [text for name, value in given.items() if name != missing for text in (name, value)]
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(arguments)
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("module", [*fork_server._NEEDED, *fork_server._NEEDED_FOR_GRPC, *fork_server._OF_TORCH])
def test_what_it_imports_exists(module: str) -> None:
    """A name that this torch does not have would cost each server the memory of its own import."""
    assert find_spec(module) is not None
