"""Integer inputs that hold the batch size, such as `feed["batch_size"]`."""

from __future__ import annotations

import dataclasses
import re

from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

_NAMED_SO = re.compile(r"batch|(?<![a-z])bsz?(?![a-z])", re.IGNORECASE)


def with_size_inputs(program: Program) -> Program:
    """The program with each integer input that equals the batch and has such a name declared as the batch; else the program itself."""
    rows = _rows(program)
    specs = tuple(
        dataclasses.replace(spec, kind="size", value=BATCH)
        if spec.kind == "constant" and may_be_size(spec.name, leaf) and leaf == rows
        else spec
        for spec, leaf in zip(program.signature.leaves, program.example, strict=True)
    )
    if specs == program.signature.leaves:
        return program
    result = program.clone()
    result.signature = dataclasses.replace(program.signature, leaves=specs)
    return result


def fixed_size_notices(program: Program) -> list[str]:
    """Notices about integer inputs with a name for the batch size that do not equal it."""
    return [
        f"the input {spec.name} = {leaf} is built in: its name refers to the batch size, but the example has {_rows(program)} rows"
        for spec, leaf in zip(program.signature.leaves, program.example, strict=True)
        if spec.kind == "constant" and may_be_size(spec.name, leaf) and leaf != _rows(program)
    ]


def may_be_size(name: str, leaf: object) -> bool:
    """Whether an input is an integer with a name for the batch size."""
    return isinstance(leaf, int) and not isinstance(leaf, bool) and _NAMED_SO.search(name) is not None


def _rows(program: Program) -> int | None:
    leaf = program.signature.batch_leaf
    return int(program.example[leaf].shape[0]) if leaf is not None else None
