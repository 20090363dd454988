"""The table of rules: operator of ATen -> function that builds it from operators of OpenVINO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

Build = Callable[..., Any]


class Unsupported(Exception):
    """An operator, or this form of it, cannot be built; the text is the reason."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one operator is built.

    Attributes:
        build: Takes the converter and the operator's arguments by the names of its schema; returns an output, or a list of outputs.
        integers: Whether results of integer types are right with 32 bits.
        formats: Whether constants may be weights in bfloat16 or in 8-bit integers.
    """

    build: Build
    integers: bool = False
    formats: bool = False


#: Operator -> its rule.
RULES: dict[Any, Rule] = {}


def rule(*targets: Any, integers: bool = False, formats: bool = False) -> Callable[[Build], Build]:
    """Registers a function as the rule of some operators.

    Args:
        *targets: The operators.
        integers: See `Rule`.
        formats: See `Rule`.

    Raises:
        ValueError: An operator has a rule already.
    """

    def decorate(build: Build) -> Build:
        for target in targets:
            if target in RULES:
                raise ValueError(f"two rules for {target}")
            RULES[target] = Rule(build, integers, formats)
        return build

    return decorate
