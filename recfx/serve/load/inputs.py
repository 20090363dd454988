"""Requests to send: rows that are drawn from a pool, as bodies of the Open Inference Protocol with binary tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import torch

from recfx.compiled import CompiledModel, load
from recfx.errors import InputError
from recfx.ir.synthetic import with_synthetic_example
from recfx.serve.engine.datatypes import NAMES
from recfx.serve.engine.interface import ModelInterface

_POOL_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Pool:
    """Rows of inputs to draw requests from.

    Attributes:
        rows: Name -> tensor with one row for each entry of dimension 0.
        whole: Name -> tensor that every request holds as it is, such as that of a user.
    """

    rows: Mapping[str, torch.Tensor]
    whole: Mapping[str, torch.Tensor]

    def draw(self, count: int, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """The tensors of a request of `count` rows."""
        size = len(next(iter(self.rows.values())))
        picks = torch.from_numpy(generator.integers(0, size, count))
        return {**{name: tensor[picks] for name, tensor in self.rows.items()}, **self.whole}


def pool_of_model(model: CompiledModel | Path) -> Pool:
    """Drawn rows for a compiled model, or for the folder of a saved one; ids lie inside its tables.

    Raises:
        InputError: The rows of an input are not along its dimension 0.
    """
    held = load(model) if isinstance(model, Path) else model
    interface = ModelInterface(held)
    program = dataclasses.replace(held.parts.in_torch, example=())
    example = with_synthetic_example(program, _POOL_ROWS).example
    named = dict(zip((info.name for info in interface.inputs), interface.tensors(example), strict=True))
    axes = {name: axis for name, axis in interface.row_axes.items() if axis is not None}
    if not axes or any((axis.dim, axis.step) != (0, 1) for axis in axes.values()):
        raise InputError(
            "requests can be drawn only if the rows of each input lie along its dimension 0",
            hint="pass examples in an .npz file",
        )
    return Pool({name: named[name] for name in axes}, {n: t for n, t in named.items() if n not in axes})


def pool_of_file(path: Path) -> Pool:
    """Rows from an .npz file: name -> array; an array of one row goes into every request as it is.

    Raises:
        InputError: The file cannot be read, or its arrays have different numbers of rows.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            tensors = {name: torch.from_numpy(held[name].copy(order="C")) for name in held.files}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"cannot read the examples: {error}",
            where=str(path),
            hint="write them by numpy.savez(path, name=array, ...)",
        ) from error
    if not tensors or any(not tensor.ndim or tensor.dtype not in NAMES for tensor in tensors.values()):
        raise InputError(
            "expected arrays of numbers with rows", where=str(path), hint="give each input one row at least"
        )
    rows = {name: tensor for name, tensor in tensors.items() if len(tensor) != 1}
    if not rows:
        raise InputError(
            "no array has several rows", where=str(path), hint="give the rows that requests are drawn from"
        )
    if len({len(tensor) for tensor in rows.values()}) != 1:
        sizes = {name: len(tensor) for name, tensor in rows.items()}
        raise InputError(
            f"the arrays differ in their rows: {sizes}", where=str(path), hint="give each input as many rows"
        )
    return Pool(rows, {name: tensor for name, tensor in tensors.items() if name not in rows})


def http_request(place: str, model: str, tensors: Mapping[str, torch.Tensor], more: Sequence[str] = ()) -> bytes:
    """An inference request as the bytes of HTTP, with binary tensors in both directions.

    Args:
        place: Host and port.
        model: The name of the model.
        tensors: Name -> tensor.
        more: Further header lines, such as "Authorization: Bearer TOKEN".
    """
    inputs, behind = [], []
    for name, tensor in tensors.items():
        behind.append(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        inputs.append(
            {
                "name": name,
                "datatype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(behind[-1])},
            }
        )
    text = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    body = b"".join([text, *behind])
    head = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {place}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
