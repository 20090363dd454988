"""Forms of operators: what a verdict on an operator depends on, so that equal operators are examined once."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import fx


def form_of(node: fx.Node) -> Any:
    """A key that is equal for operators with the same arguments and the same types and sizes of operands."""
    names: dict[str, str] = {}
    operands = dict.fromkeys(node.all_input_nodes)
    places = {source: at for at, source in enumerate(operands)}
    described = tuple(_description(source, names) for source in operands)
    place: Any = lambda source: _Place(places[source])  # noqa: E731 - its type is wider than that of fx
    arguments = fx.map_arg((node.args, dict(node.kwargs)), place)
    used = tuple(sorted(str(user.args[1]) for user in node.users if user.target is getitem))
    return str(node.target), repr(arguments), described, used, _description(node, names)


class _Place:
    """An operand of an operator, by its number."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __repr__(self) -> str:
        return f"operand {self.at}"


def _description(node: fx.Node, names: dict[str, str]) -> Any:
    """The type and sizes of a value; free sizes are numbered in the order in which they appear."""

    def named(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(
                one if isinstance(one, int) else names.setdefault(str(one), f"s{len(names)}") for one in value.shape
            )
        if isinstance(value, list | tuple):
            return tuple(named(one) for one in value)
        return type(value).__name__

    return named(node.meta.get("val")), node.target is torch.ops.aten.arange.start_step and str(node.args)
