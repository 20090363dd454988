"""`python -m recfx.serve.worker`: one of several processes that serve the same models on one port.

Its plan comes from its parent by the standard input, because a plan holds tokens, which a command line would show to other users.
"""

from __future__ import annotations

import argparse
import pickle
import socket
import sys
from pathlib import Path

from recfx.command_line import not_negative, run_command
from recfx.serve.logs import configure
from recfx.serve.plan import ServerPlan


def parser() -> argparse.ArgumentParser:
    """The arguments, which its parent writes."""
    made = argparse.ArgumentParser("recfx serve")
    made.add_argument("--socket", type=not_negative, required=True, help="the file of the socket of all processes")
    made.add_argument("--siblings", type=Path, required=True, help="the folder in which the processes find each other")
    made.set_defaults(run=_run)
    return made


def _run(options: argparse.Namespace) -> int:
    plan = pickle.load(sys.stdin.buffer)
    assert isinstance(plan, ServerPlan)
    configure(plan.logs)
    plan.make(options.siblings).run([socket.socket(fileno=options.socket)])
    return 0


if __name__ == "__main__":
    sys.exit(run_command(parser()))
