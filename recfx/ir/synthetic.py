"""Drawn inputs for a program without an example, such as one that was loaded: saved models hold no inputs of their users.

Ids lie inside the tables that read them, bags hold one id each, and measurements lie between 0 and 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from recfx.errors import InputError
from recfx.ir.bags import Bags, Form
from recfx.ir.id_ranges import IdRange
from recfx.ir.input_roles import input_roles
from recfx.ir.leaves import LeafSpec
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names, evaluate_size

#: The size of a dimension other than the batch, where its range allows it.
_SIZE = 4


def with_synthetic_example(program: Program, rows: int = 16, seed: int = 0) -> Program:
    """The program with drawn inputs as its example; the program itself if it has an example.

    Args:
        program: A program of torch's operators, in which the tables that read ids can be found.
        rows: The batch, where its range allows it.
        seed: Of the drawn values.

    Raises:
        InputError: The sizes of the inputs depend on each other in a way that is not understood.
    """
    if program.example:
        return program
    sizes = _sizes(program, rows)
    plain = [_plain(leaf, sizes) for leaf in program.signature.leaves]
    for bags in program.bags:
        plain[bags.bounds] = _bounds(bags, plain[bags.bounds])
    program.signature.check(plain)
    held = dataclasses.replace(program, example=tuple(plain))
    roles, generator = input_roles(held), torch.Generator().manual_seed(seed)
    bounds = {bags.bounds for bags in roles.bags}
    drawn = [
        leaf if position in bounds else _drawn(leaf, roles.ranges.get(position), generator)
        for position, leaf in enumerate(plain)
    ]
    return dataclasses.replace(program, example=tuple(drawn))


def _sizes(program: Program, rows: int) -> dict[str, int]:
    """A size for each dimension."""
    dims, found = program.signature.dims, dict[str, int]()
    for name, (low, high) in dims.items():
        wanted = max(rows if name == BATCH else _SIZE, low)
        found[name] = wanted if high is None else min(wanted, high)
    for bags in program.bags:
        count = bags.runs // len(bags.streams) * found.get(BATCH, rows)
        for position in bags.members:
            shape = program.signature.leaves[position].shape
            size = shape[0 if bags.streams[0].row is None else 1]
            if isinstance(size, str) and size in dims:
                found[size] = count
    return found


def _plain(leaf: LeafSpec, sizes: dict[str, int]) -> Any:
    """Zeros of a leaf's sizes; the value of any other leaf.

    Raises:
        InputError: A size is not an expression over the dimensions.
    """
    if leaf.kind != "tensor":
        return sizes.get(leaf.value, leaf.value) if leaf.kind == "size" else leaf.value
    shape = [size if isinstance(size, int) else evaluate_size(size, sizes) for size in leaf.shape]
    if None in shape:
        names = sorted({name for size in leaf.shape if isinstance(size, str) for name in dimension_names(size)})
        raise InputError(
            f"no inputs can be drawn: the dimensions {', '.join(names)} are not known",
            where=f"input {leaf}",
            hint="call the model with your own inputs and measure these calls",
        )
    return torch.zeros([size for size in shape if size is not None], dtype=leaf.dtype, device=leaf.device)


def _bounds(bags: Bags, leaf: torch.Tensor) -> torch.Tensor:
    """The bounds of bags with one id each."""
    if bags.form is Form.LENGTHS:
        return torch.ones_like(leaf)
    per_stream = leaf.numel() // len(bags.streams)
    counted = torch.arange(per_stream).repeat(len(bags.streams))
    return counted.reshape(leaf.shape).to(leaf.dtype)


def _drawn(leaf: Any, ids: IdRange | None, generator: torch.Generator) -> Any:
    """Drawn values in place of zeros: ids of a table where one reads them, measurements from 0 to 1, and otherwise 0."""
    if not isinstance(leaf, torch.Tensor) or not leaf.numel():
        return leaf
    share = torch.rand(leaf.shape, generator=generator, dtype=torch.float64)
    if ids is None or not bool(ids.known.any()):
        return share.to(leaf.dtype) if leaf.is_floating_point() else leaf
    width = len(ids.low)
    known, low, high = (
        each.expand(leaf.numel() // width, width).reshape(leaf.shape) if leaf.numel() % width == 0 else each[0]
        for each in (ids.known, ids.low, ids.high)
    )
    picked = low + (share * (high - low + 1).clamp(min=1)).floor()
    other = share if leaf.is_floating_point() else torch.zeros_like(share)
    return torch.where(known, picked, other).to(leaf.dtype)
