"""Programs as readable text: nodes grouped by the user's modules, tables and weights with their sizes."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import fx

from recfx.ir.lookup_ops import tables_of
from recfx.ir.provenance import module_path
from recfx.ir.signature import Signature


class Printable(Protocol):
    """The attributes of a program that printing reads; `recfx.ir.Program` has them."""

    @property
    def graph(self) -> fx.Graph: ...

    signature: Signature

    def placeholders(self) -> list[fx.Node]: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def state_bytes(self) -> int: ...


def render(program: Printable, *, max_nodes: int | None = None) -> str:
    """The program as text.

    Args:
        program: The program.
        max_nodes: The largest number of operators to print; a line gives the number of the others. None prints all.
    """
    lines = [f"program({', '.join(map(str, program.signature.leaves))})"]
    for name, (low, high) in program.signature.dims.items():
        lines.append(f"  {name} in {low}..{'' if high is None else high}")
    lines += _state_lines(program)
    names = symbol_names(program)
    path = None
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    for shown, node in enumerate(calls):
        if max_nodes is not None and shown == max_nodes:
            lines.append(f"  … {len(calls) - shown} more operators")
            break
        here = module_path(node)
        if here != path:
            lines.append(f"  [{here or 'top level'}]")
            path = here
        lines.append(f"    {describe(node, names)}")
    output = next(iter(reversed(program.graph.nodes)))
    lines.append(f"  return {_argument(output.args[0])}")
    return "\n".join(lines)


def symbol_names(program: Printable) -> dict[str, str]:
    """The dimension name (`batch`) of each symbol in the captured shapes (`s11`)."""
    names: dict[str, str] = {}
    for spec, node in zip(program.signature.leaves, program.placeholders(), strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            names |= {
                str(size): want
                for want, size in zip(spec.shape, value.shape, strict=True)
                if isinstance(want, str) and want in program.signature.dims
            }
    return names


def describe(node: fx.Node, names: Mapping[str, str] | None = None) -> str:
    """One operator as `name: type = operator(arguments)`; `names` translates shape symbols."""
    arguments = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    return (
        f"{node.name}: {value_text(node.meta.get('val'), names)} = {operator_name(node.target)}({', '.join(arguments)})"
    )


def operator_name(target: Any) -> str:
    """The printed name of an operator: `aten.linear`, `aten.add.Tensor`, `getitem`."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def value_text(value: Any, names: Mapping[str, str] | None = None) -> str:
    """The type of a value: `float32[batch, 13]` for a fake tensor, a tuple of types for several values."""
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(str(s) for s in value.shape)
        for symbol, name in (names or {}).items():
            sizes = re.sub(rf"\b{symbol}\b", name, sizes)
        return f"{str(value.dtype).removeprefix('torch.')}[{sizes}]"
    if isinstance(value, tuple | list):
        return f"({', '.join(value_text(v, names) for v in value)})"
    return type(value).__name__ if value is not None else "?"


def human_bytes(count: float) -> str:
    """A number of bytes as text, `26.6 MB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _state_lines(program: Printable) -> list[str]:
    tables = {str(table.target) for node in program.graph.nodes for table in tables_of(node) if table.op == "get_attr"}
    lines = []
    for name, tensor in program.state().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        kind = "table " if name in tables else "weight"
        size = human_bytes(tensor.numel() * tensor.element_size())
        lines.append(f"  {kind} {name}: {value_text(tensor)}, {size}")
    if lines:
        lines.append(f"  {human_bytes(program.state_bytes())} of state in all")
    return lines


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return str(value.target) if value.op == "get_attr" else value.name
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_argument, value))}]"
    return str(value)
