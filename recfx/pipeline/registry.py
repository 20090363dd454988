"""Pass names for text pipelines."""

from __future__ import annotations

import difflib

from recfx.errors import PipelineError
from recfx.pipeline.base import Pass

_PASSES: dict[str, type[Pass]] = {}


def register(cls: type[Pass]) -> type[Pass]:
    """Makes a pass available by its name in text pipelines; usable as a decorator.

    Raises:
        PipelineError: Another pass has that name already.
    """
    name = cls.spec.name
    known = _PASSES.get(name)
    if known is not None and known is not cls:
        raise PipelineError(
            f"two passes are called {name!r}",
            where=f"{known.__module__}.{known.__qualname__} and {cls.__module__}.{cls.__qualname__}",
            hint="rename one of them",
        )
    _PASSES[name] = cls
    return cls


def find(name: str) -> type[Pass]:
    """The pass of that name.

    Raises:
        PipelineError: No pass of that name is registered.
    """
    if name not in _PASSES:
        close = difflib.get_close_matches(name, _PASSES)
        raise PipelineError(
            f"no pass is called {name!r}",
            hint=f"did you mean {', '.join(close)}?"
            if close
            else f"known passes: {', '.join(sorted(_PASSES)) or 'none'}",
        )
    return _PASSES[name]


def establishing(name: str) -> str:
    """The registered passes that establish a property, as a clause of a message."""
    found = sorted(cls.spec.name for cls in _PASSES.values() if name in cls.spec.establishes)
    return f"which {' or '.join(found)} establishes; add it before" if found else "which no registered pass establishes"


def registered() -> dict[str, type[Pass]]:
    """All registered passes by name."""
    return dict(sorted(_PASSES.items()))
