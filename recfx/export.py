"""`export_onnx`: a compiled model as an ONNX file that runs without recfx."""

from __future__ import annotations

import importlib.util
from os import PathLike
from pathlib import Path

from recfx.compiled import CompiledModel
from recfx.errors import ArtifactError, InputError, TargetError


def export_onnx(model: CompiledModel, path: str | PathLike[str]) -> None:
    """Writes a compiled model as an ONNX file that ONNX Runtime and other runtimes run without recfx.

    The file holds the program after all passes, in fp32, bf16 or int8, with its weights; int8 layers multiply whole numbers. Inputs and
    free sizes keep their names, and the outputs have the keys of the result or the names `output`, `output_1`, ... Negative ids and ids
    beyond their table are errors of the runtime. Where one row runs as a program of its own, the file takes two rows and more.

    Args:
        model: The result of `recfx.optimize` or `recfx.load`.
        path: The file to write. More than a gigabyte of weights goes to a second file with the ending `.data` beside it.

    Raises:
        InputError: `model` is not a CompiledModel.
        TargetError: The package onnx is not installed, or an operator has no ONNX form; the message names the operator and its module.
        ArtifactError: A file cannot be written.
    """
    if not isinstance(model, CompiledModel):
        raise InputError(
            f"expected a CompiledModel, got {type(model).__name__}",
            hint="pass the result of recfx.optimize or recfx.load",
        )
    if importlib.util.find_spec("onnx") is None:
        raise TargetError("onnx is needed to write ONNX files", hint='pip install "recfx[onnxruntime]"')
    from recfx.onnx.files import write

    try:
        write(model.program, Path(path))
    except OSError as error:
        raise ArtifactError(
            f"the file cannot be written: {error.strerror or error}",
            where=str(path),
            hint="pass a path in a folder that exists, on a disk with free space",
        ) from error
