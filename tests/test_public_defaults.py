"""The defaults of the public interface, which users rely on without writing them: public_defaults.txt holds each.

None of them may change or go by accident. `python tests/test_public_defaults.py` writes the file again: with the defaults that changed on
purpose, and with the new ones, which the test does not ask for.
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
    """One line for each default of a parameter; None, objects and sentinels are left out."""
    lines = set()
    for name, held in callables():
        for parameter in inspect.signature(held).parameters.values():
            if isinstance(parameter.default, bool | int | float | str | tuple | frozenset):
                lines.add(f"{name}({parameter.name}) = {_text(parameter.default)}")
    return sorted(lines)


def _text(default: Any) -> str:
    return default.name if isinstance(default, enum.Enum) else repr(default)


def test_the_defaults_of_the_public_interface() -> None:
    held = HELD.read_text().splitlines()
    assert len(held) > 400
    now = set(defaults())
    assert [line for line in held if line not in now] == []


if __name__ == "__main__":
    HELD.write_text("\n".join(defaults()) + "\n")
