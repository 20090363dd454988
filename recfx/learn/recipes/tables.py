"""Codes of users and items in a file."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recfx.errors import ArtifactError
from recfx.learn import QuantizedTable

_SIDES = ("users", "items")


def save_tables(file: Path, users: QuantizedTable, items: QuantizedTable) -> None:
    """Writes users and items: tensors such as `users.codes`, and the bits in the metadata."""
    tensors, bits = {}, {}
    for side, table in zip(_SIDES, (users, items), strict=True):
        bits[side] = str(table.bits)
        for name in ("codes", "lower", "step", "centre"):
            tensor = getattr(table, name)
            if tensor is not None:
                tensors[f"{side}.{name}"] = tensor.detach().cpu().contiguous()
    partial = file.with_name(file.name + ".partial")
    save_file(tensors, partial, bits)
    os.replace(partial, file)


def load_tables(file: Path) -> tuple[QuantizedTable, QuantizedTable]:
    """Reads a file that `save_tables` wrote.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as found:
            held = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
            bits = found.metadata()
        users, items = (_table(held, side, int(bits[side])) for side in _SIDES)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"codes cannot be read: {error}", where=str(file), hint="delete the result of that cell, and run again"
        ) from error
    return users, items


def _table(held: dict[str, Tensor], side: str, bits: int) -> QuantizedTable:
    codes, lower, step = (held[f"{side}.{name}"] for name in ("codes", "lower", "step"))
    return QuantizedTable(codes, lower, step, bits, held.get(f"{side}.centre"))
