"""Compiled models as bytes: the files of a saved folder, for `pickle`, `copy.deepcopy` and `torch.save`.

A pickle then holds only names and bytes, and reading it makes the same checks as reading a folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from recfx.driver import artifact
from recfx.driver.parts import Parts
from recfx.errors import ArtifactError
from recfx.ir.program import Program

_FOLDER = "model"


def to_files(parts: Parts) -> dict[str, torch.Tensor]:
    """The files of the folder that `artifact.save` writes: path -> bytes, uint8 [n].

    Raises:
        ArtifactError: The model cannot be saved; see `CompiledModel.save`.
    """
    with tempfile.TemporaryDirectory(prefix="recfx-") as temporary:
        folder = Path(temporary) / _FOLDER
        artifact.save(parts, folder)
        return {
            file.relative_to(folder).as_posix(): torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.stat().st_size
        }


def from_files(files: Mapping[str, torch.Tensor], operators: Collection[str] = ()) -> Parts:
    """The inverse of `to_files`; see `recfx.load`.

    Raises:
        ArtifactError: A file is damaged or missing, or its content is not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="recfx-") as temporary:
        folder = Path(temporary) / _FOLDER
        folder.mkdir()
        for name, data in files.items():
            _write(folder, name, data)
        return artifact.read(folder, operators=operators, mapped=False)


def copied_parts(parts: Parts) -> Parts:
    """Parts that share no memory with the given ones."""
    programs = [parts.program] if parts.one_row is None else [parts.program, parts.one_row.program]
    return from_files(to_files(parts), {name for program in programs for name in _operators(program)})


def _operators(program: Program) -> set[str]:
    """The names of the operators that a program calls, as `recfx.load` takes them."""
    targets = [node.target for node in program.graph.nodes]
    return {target._schema.name for target in targets if isinstance(target, torch._ops.OpOverload)}


def _write(folder: Path, name: str, data: torch.Tensor) -> None:
    if (
        not isinstance(name, str)
        or not isinstance(data, torch.Tensor)
        or data.dtype is not torch.uint8
        or data.ndim != 1
    ):
        raise ArtifactError(
            f"expected the files of a saved model as uint8 tensors, got {type(data).__name__} for {str(name)[:100]!r}",
            hint="pickle the compiled model again",
        )
    if Path(name).name != name or name in ("", ".", ".."):
        raise ArtifactError(f"{name[:100]!r} is not the name of a file of a saved model")
    (folder / name).write_bytes(data.cpu().contiguous().numpy().tobytes())
