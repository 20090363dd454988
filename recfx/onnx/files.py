"""Writes programs as ONNX files that other runtimes read without recfx."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.errors import TargetError
from recfx.ir.program import Program, get_state
from recfx.ir.provenance import where
from recfx.ir.region import Region
from recfx.onnx.translate import Refusals, Translation, translate
from recfx.onnx.types import Untranslated

#: More weights than this are stored in a second file: one file of protobuf holds 2 GiB at most.
INLINE_BYTES = 1 << 30

#: Weights in the second file begin at multiples of this, so that runtimes can map them into memory.
_ALIGNMENT = 4096


def write(program: Program, path: Path) -> list[Path]:
    """Writes a program as an ONNX model; returns the files.

    The inputs have the names of the leaves of the signature, the outputs those of the keys of the result, or `output`, `output_1`, ...
    Inputs and outputs that are not tensors are left out.

    Args:
        program: The program.
        path: The file. More than a gigabyte of weights goes to a second file beside it, with the ending `.data`.

    Raises:
        TargetError: An operator has no ONNX form.
        OSError: A file cannot be written.
    """
    made = _translated(program)
    _name_sizes(program, made.model.graph)
    state = {inside: get_state(program.module, name) for name, inside in made.state.items()}
    large = sum(tensor.nbytes for tensor in state.values()) > INLINE_BYTES
    data = path.with_name(f"{path.name}.data")
    files = [data] if large else []
    if large:
        _replace(data, _external(made.model, state, data.name))
    else:
        _inline(made.model, state)
    _replace(path, [made.model.SerializeToString()])
    return [path, *files]


def _translated(program: Program) -> Translation:
    leaves = [leaf.name for leaf in program.signature.leaves]
    region = Region.whole(program)
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    try:
        return translate(region, inputs=leaves, outputs=output_names(program, returned, leaves), free_ties=True)
    except Refusals as error:
        lines = [f"{node.target} ({reason}) in {where(node) or 'the model'}" for node, reason in error.reasons.items()]
        raise TargetError(
            f"operators without an ONNX form: {'; '.join(lines[:5])}{f', and {len(lines) - 5} more' * (len(lines) > 5)}",
            hint="export a part of the model without them; recfx.ops.onnx.export tries torch's exporter",
        ) from error
    except Untranslated as error:
        raise TargetError(
            f"the program has no ONNX form: {error}", hint="export a part of the model that takes and returns tensors"
        ) from error


def output_names(program: Program, returned: Sequence[Any], taken: Sequence[str]) -> list[str]:
    """A name for each flat output: the last key of its path in the result, or `output` with its number.

    Args:
        program: The program.
        returned: Its flat outputs.
        taken: Names that inputs have.
    """
    count = len(returned)
    keys = [""] * count
    try:
        nested = program.signature.out_spec.unflatten(list(range(count)))
        for key_path, at in pytree.tree_flatten_with_path(nested)[0]:
            if isinstance(at, int) and key_path and isinstance(key_path[-1], pytree.MappingKey):
                keys[at] = str(key_path[-1].key)
    except Exception:  # noqa: BLE001 - a class of the user may refuse numbers; numbered names serve as well
        keys = [""] * count
    found: list[str] = []
    used = set(taken)
    for at, key in enumerate(keys):
        name = key or ("output" if at == 0 else f"output_{at}")
        while name in used:
            name = f"{name}_output"
        used.add(name)
        found.append(name)
    return found


def _name_sizes(program: Program, graph: Any) -> None:
    """Gives free sizes the names of the signature's dimensions."""
    named: dict[str, str] = {}
    leaves = {leaf.name: leaf for leaf in program.signature.leaves}
    nodes = {leaf.name: node for leaf, node in zip(program.signature.leaves, program.placeholders(), strict=True)}
    for place in graph.input:
        shape = place.type.tensor_type.shape.dim
        for dim, size in zip(shape, leaves[place.name].shape, strict=False):
            if not isinstance(size, int):
                dim.dim_param = str(size)
        held = nodes[place.name].meta.get("val")
        if isinstance(held, torch.Tensor):
            named |= {str(a): str(b) for a, b in zip(held.shape, leaves[place.name].shape, strict=False)}
    returned = [node for node in next(iter(reversed(program.graph.nodes))).args[0] if isinstance(node, fx.Node)]
    for place, node in zip(graph.output, returned, strict=True):
        held = node.meta.get("val")
        for dim, size in zip(place.type.tensor_type.shape.dim, getattr(held, "shape", ()), strict=False):
            if not isinstance(size, int) and str(size) in named:
                dim.dim_param = named[str(size)]


def _initializers(model: Any, state: dict[str, torch.Tensor]) -> Iterator[tuple[Any, torch.Tensor]]:
    for held in model.graph.initializer:
        if held.name in state:
            yield held, state[held.name].detach().cpu().contiguous()


def _content(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _inline(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Puts the weights into the model."""
    for held, tensor in _initializers(model, state):
        del held.external_data[:]
        held.data_location = 0
        held.raw_data = bytes(_content(tensor))


def _external(model: Any, state: dict[str, torch.Tensor], name: str) -> Iterator[memoryview | bytes]:
    """The content of the second file; the model learns where each tensor begins."""
    at = 0
    for held, tensor in _initializers(model, state):
        gap = -at % _ALIGNMENT
        at += gap
        entries = {"location": name, "offset": str(at), "length": str(tensor.nbytes)}
        for entry in held.external_data:
            entry.value = entries[entry.key]
        yield bytes(gap)
        yield _content(tensor)
        at += tensor.nbytes


def _replace(path: Path, parts: Any) -> None:
    """Writes a file beside its place and moves it there, so that no reader meets half of it."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
