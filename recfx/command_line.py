"""Shared code of this repository's command lines: how a command runs and fails, and the options that several commands have."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from recfx.errors import RecfxError

#: Exit status of a command that was interrupted, as shells report it.
_INTERRUPTED = 130


def positive(text: str) -> int:
    """An integer of at least 1, as the type of an option."""
    number: int = _number(text, int, 1, "an integer of at least 1")
    return number


def not_negative(text: str) -> int:
    """An integer of at least 0, as the type of an option."""
    number: int = _number(text, int, 0, "an integer of at least 0")
    return number


def seconds(text: str) -> float:
    """A time above 0, as the type of an option."""
    number: float = _number(text, float, sys.float_info.min, "a number above 0")
    return number


def minutes(text: str) -> float:
    """A time of at least 0, as the type of an option."""
    number: float = _number(text, float, 0.0, "a number of at least 0")
    return number


def _number(text: str, kind: Callable[[str], Any], least: float, expected: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not least <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return number


#: Options that mean the same in every command: name -> type and help.
_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "threads": (positive, "threads torch may use (default: torch's own choice)"),
    "seed": (not_negative, "seed of all random draws (default: %(default)s)"),
    "seconds": (seconds, "time to spend (default: %(default)s)"),
    "workers": (positive, "processes at a time (default: %(default)s)"),
}


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parses the arguments and calls `run(options)` of the chosen command.

    Returns:
        The exit status of the command; 1 after an error, whose text goes to standard error after the program's name, and 130
        after an interrupt. Arguments that do not parse end the program with status 2. Errors that are not recfx's own have a
        traceback where the environment variable RECFX_TRACEBACK is set.
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
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("RECFX_TRACEBACK"):
            raise
        sys.stderr.write(f"{name}: {_unexpected(error)}\n")
        return 1
    return status


def _unexpected(error: Exception) -> str:
    """The text of an error that is not recfx's own."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}\n  next:  check the path, its permissions and the space on its disk"
    return (
        f"{type(error).__name__}: {text}\n  next:  run the command again with RECFX_TRACEBACK=1 for the lines where it happened, "
        "and report them if the command is right"
    )


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
