"""Pass names for text pipelines."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from recfx.errors import PipelineError
from recfx.pipeline.base import Pass

_PASSES: dict[str, type[Pass]] = {}

#: The package that registers the built-in passes when it is imported.
_BUILT_IN = "recfx.passes"


_OWN = "register your own passes with @recfx.register or @recfx.rewrite(..., name=...) first"


def register(cls: type[Pass]) -> type[Pass]:
    """Makes a pass available by its name in text pipelines; usable as a decorator.

    A class that is defined again, as by a notebook cell that runs twice, replaces the former class.

    Raises:
        PipelineError: Another pass has that name already.
    """
    if not cls.__module__.startswith(f"{_BUILT_IN}."):
        importlib.import_module(_BUILT_IN)
    name = cls.spec.name
    known = _PASSES.get(name)
    if known is not None and _defined_at(known) != _defined_at(cls):
        raise PipelineError(
            f"two passes are called {name!r}",
            where=f"{known.__module__}.{known.__qualname__} and {cls.__module__}.{cls.__qualname__}",
            hint="rename one of them",
        )
    _PASSES[name] = cls
    return cls


def _defined_at(cls: type[Pass]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def find(name: str) -> type[Pass]:
    """The pass of that name.

    Raises:
        PipelineError: No pass of that name is registered.
    """
    importlib.import_module(_BUILT_IN)
    if name not in _PASSES:
        close = difflib.get_close_matches(name, _PASSES)
        raise PipelineError(
            f"no pass is called {name!r}",
            hint=f"did you mean {', '.join(close)}? {_OWN}"
            if close
            else f"known passes: {', '.join(sorted(_PASSES))}; {_OWN}",
        )
    return _PASSES[name]


def establishing(name: str) -> str:
    """The registered passes that establish a property, as a clause of a message."""
    found = sorted(cls.spec.name for cls in _PASSES.values() if name in cls.spec.establishes)
    return f"which {' or '.join(found)} establishes; add it before" if found else "which no registered pass establishes"


@contextmanager
def separate_registry() -> Iterator[None]:
    """A context in which registrations are temporary, and a user's passes are not registered at the start."""
    held = dict(_PASSES)
    for name in [name for name, cls in held.items() if not cls.__module__.startswith(f"{_BUILT_IN}.")]:
        del _PASSES[name]
    try:
        yield
    finally:
        _PASSES.clear()
        _PASSES.update(held)


def registered() -> dict[str, type[Pass]]:
    """All registered passes by name, the built-in passes included."""
    importlib.import_module(_BUILT_IN)
    return dict(sorted(_PASSES.items()))
