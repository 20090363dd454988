"""Cases with models of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.case import Case


def zoo_case(
    name: str,
    summary: str,
    gigabytes: float,
    *,
    model: str | None = None,
    request: tuple[str, ...] = (),
    split: Callable[[Any, int], int] | None = None,
    max_batch: int | None = None,
    **overrides: Any,
) -> Case:
    """A case that builds a model of `recfx.zoo`.

    Args:
        name: The case's name.
        summary: Its sizes.
        gigabytes: The approximate size of its parameters.
        model: The model's name in the zoo, if it differs from the case's.
        request: See `Case`.
        split: See `Case`.
        max_batch: See `Case`.
        overrides: Arguments of the model's constructor.
    """
    build = _Build(model or name, overrides)
    return Case(name, summary, build, gigabytes, request=request, split=split, max_batch=max_batch)


class _Build:
    """Builds the model when called, from its name and arguments."""

    def __init__(self, model: str, overrides: dict[str, Any]) -> None:
        self.model = model
        self.overrides = overrides

    def __call__(self) -> nn.Module:
        from recfx import zoo

        model: nn.Module = zoo.build(self.model, **self.overrides)
        return model
