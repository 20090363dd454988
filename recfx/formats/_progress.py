"""A progress bar for what may take long on large tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_QUIET_S = 2.0


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives `advance(done)`. A bar appears on stderr when two seconds have passed, and never where that is no terminal."""
    begun = time.perf_counter()
    move: Callable[[int], None] | None = None
    finished = 0
    with ExitStack() as stack:

        def advance(done: int) -> None:
            nonlocal finished, move
            finished += done
            if move is None and time.perf_counter() - begun > _QUIET_S:
                move = _show(stack, title, total)
            if move is not None:
                move(finished)

        yield advance


def _show(stack: ExitStack, title: str, total: int) -> Callable[[int], None]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = stack.enter_context(Progress(console=console, disable=not console.is_terminal, transient=True))
    task = bar.add_task(title, total=total)
    return lambda done: bar.update(task, completed=done)
