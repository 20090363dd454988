"""Lists data classes that are not frozen."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType


def changeable(package: ModuleType, *, slots: bool = False) -> set[str]:
    """Names of the imported data classes below a package that are not frozen.

    Args:
        package: The package.
        slots: Whether classes with slots count as frozen: they also refuse a misspelt field.
    """
    found = set()
    for name, module in list(sys.modules.items()):
        if not name.startswith(f"{package.__name__}."):
            continue
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == name and dataclasses.is_dataclass(value):
                fixed = value.__dataclass_params__.frozen or (slots and "__slots__" in vars(value))  # type: ignore[attr-defined]
                if not fixed:
                    found.add(f"{name.removeprefix(package.__name__ + '.')}.{value.__qualname__}")
    return found
