"""The defaults of the public interface, which users rely on without writing them: public_defaults.txt holds each.

A default that changes on purpose changes there, too: `python tests/test_public_defaults.py` writes the file again.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HELD = Path(__file__).with_name("public_defaults.txt")

#: Packages with a public interface that need no optional package; the reference models have a test of their own.
PACKAGES = (
    "recfx",
    "recfx.budget",
    "recfx.capture",
    "recfx.data",
    "recfx.formats",
    "recfx.ir",
    "recfx.learn",
    "recfx.learn.post_training",
    "recfx.learn.recipes",
    "recfx.ops",
    "recfx.pipeline",
    "recfx.retrieval",
    "recfx.serve",
    "recfx.serve.policies",
    "recfx.serve.simulator",
    "recfx.targets",
    "recfx.testing",
)


def callables() -> Iterator[tuple[str, Any]]:
    """The public functions and classes, and the public methods of the classes."""
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            held = getattr(package, name)
            if not callable(held) or not str(getattr(held, "__module__", "")).startswith("recfx"):
                continue
            if not (inspect.isclass(held) and issubclass(held, enum.Enum | Exception)):
                yield f"{package.__name__}.{name}", held
            for own, method in vars(held).items() if inspect.isclass(held) else ():
                if inspect.isfunction(method) and not own.startswith("_"):
                    yield f"{package.__name__}.{name}.{own}", method


def defaults() -> list[str]:
    """One line for each callable with defaults other than None, objects and sentinels."""
    lines = []
    for name, held in callables():
        parameters = inspect.signature(held).parameters.values()
        plain = [p for p in parameters if isinstance(p.default, bool | int | float | str | tuple | frozenset)]
        if given := [f"{p.name}={_text(p.default)}" for p in plain]:
            lines.append(f"{name}: {', '.join(given)}")
    return sorted(set(lines))


def _text(default: Any) -> str:
    return default.name if isinstance(default, enum.Enum) else repr(default)


def test_the_defaults_of_the_public_interface() -> None:
    assert defaults() == HELD.read_text().splitlines()


if __name__ == "__main__":
    HELD.write_text("\n".join(defaults()) + "\n")
