"""Names of parameters and submodules that a graph module cannot have: `half`, `to`, `graph`, `class`.

A user's module may have a submodule named `half`, which hides the method `nn.Module.half`. In a graph module, Python finds the method
instead of the submodule, or the generated code does not parse. Such parts of a name get an underscore in the captured program.
"""

from __future__ import annotations

import keyword

import torch
from torch import fx

_OWN = frozenset(fx.GraphModule(torch.nn.Module(), fx.Graph()).__dict__)


def clashes(part: str) -> bool:
    """Whether a part of a dotted name cannot be an attribute of a graph module."""
    return hasattr(fx.GraphModule, part) or part in _OWN or keyword.iskeyword(part)


def rename_clashes(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """Renames the state of an exported program, in place, to names that a graph module can have; returns old name -> new name."""
    signature = exported.graph_signature
    targets = list(dict.fromkeys(spec.target for spec in signature.input_specs if spec.target is not None))
    renamed = {old: new for old, new in _carried_names(targets).items() if old != new}
    if not renamed:
        return renamed
    for spec in (*signature.input_specs, *signature.output_specs):
        if spec.target in renamed:
            spec.target = renamed[spec.target]
    for held in (exported.state_dict, exported.constants):
        for name in [n for n in held if n in renamed]:
            held[renamed[name]] = held.pop(name)
    return renamed


def _carried_names(names: list[str]) -> dict[str, str]:
    """Dotted name -> a name without clashing parts; names with a common prefix keep a common prefix."""
    taken = {path for name in names for path in _prefixes(name)}
    parts: dict[str, str] = {"": ""}  # path -> its new path
    for path in dict.fromkeys(path for name in names for path in _prefixes(name)):
        parent, _, part = path.rpartition(".")
        new = part
        while clashes(new) or (new != part and f"{parent}.{new}".lstrip(".") in taken):
            new += "_"
        taken.add(f"{parent}.{new}".lstrip("."))
        parts[path] = f"{parts[parent]}.{new}".lstrip(".")
    return {name: parts[name] for name in names}


def _prefixes(name: str) -> list[str]:
    pieces = name.split(".")
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]
