"""Shared code of this repository's command lines: how a command runs and fails, and the options that several commands have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from recfx.errors import RecfxError

#: Exit status of a command that was interrupted, as shells report it.
_INTERRUPTED = 130

#: Options that mean the same in every command: name -> type and help.
_OPTIONS: dict[str, tuple[type, str]] = {
    "threads": (int, "threads torch may use (default: torch's own choice)"),
    "seed": (int, "seed of all random draws (default: %(default)s)"),
    "seconds": (float, "time to spend (default: %(default)s)"),
    "workers": (int, "processes at a time (default: %(default)s)"),
}


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parses the arguments and calls `run(options)` of the chosen command.

    Returns:
        The exit status of the command; 1 after a `RecfxError`, whose text goes to standard error after the program's name, and 130
        after an interrupt. Arguments that do not parse end the program with status 2.
    """
    options = parser.parse_args(argv)
    name = parser.prog.removeprefix("python -m ")
    try:
        status: int = options.run(options)
    except RecfxError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return _INTERRUPTED
    return status


def add_option(parser: argparse.ArgumentParser, name: str, default: Any = None, text: str = "") -> None:
    """Adds an option that other commands have too.

    Args:
        parser: The command.
        name: "threads", "seed", "seconds" or "workers".
        default: Its value when it is not given.
        text: The help, in place of the common one.
    """
    kind, known = _OPTIONS[name]
    parser.add_argument(f"--{name}", type=kind, default=default, help=text or known)


def listed(text: str) -> list[str]:
    """Parts between commas, without blanks and empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def integers(text: str) -> tuple[int, ...]:
    """Integers between commas, as the type of an option.

    Raises:
        ArgumentTypeError: A part is not an integer.
    """
    try:
        return tuple(int(part) for part in listed(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected integers such as 1,2,4, got {text!r}") from error
