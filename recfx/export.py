"""Compiled models for other runtimes: an ONNX file (`export_onnx`), or a graph of torch with int8 layers in Q/DQ form (`export_qdq`)."""

from __future__ import annotations

import importlib.util
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from recfx.compiled import CompiledModel
from recfx.errors import ArtifactError, InputError, TargetError
from recfx.ir.program import Program


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
    _require_compiled(model)
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


def export_qdq(model: CompiledModel, calibration: Any = None) -> torch.export.ExportedProgram:
    """A compiled model as a graph of torch's operators, in which int8 layers are in Q/DQ form.

    An int8 layer becomes a float32 linear between operators of `torch.ops.quantized_decomposed`, which inductor, OpenVINO and ONNX Runtime
    recognise and compute in int8. Everything else has the operators of ATen, tables in fewer bits included. Inputs and outputs are flat:
    the leaves of the inputs in the order of the call, and a tuple of the outputs. Where one row runs as a program of its own, the graph
    takes two rows and more.

    Args:
        model: The result of `recfx.optimize` or `recfx.load`.
        calibration: Batches, each as `example_inputs`, with or without labels as the last element. Layers that quantise each row by a scale
            of its own need them: the form has one scale for all rows, that of the least squared error on these rows.

    Raises:
        InputError: `model` is not a CompiledModel; a layer has no scale, and there is no calibration data or its inputs are zero on it; or
            the data does not fit.
        TargetError: An input is not a tensor.
    """
    _require_compiled(model)
    from recfx.ops.exported import exported
    from recfx.ops.qdq import with_qdq
    from recfx.passes.quantize.calibrated_layers import calibration_rows
    from recfx.passes.quantize.static_inputs import dynamic_layers, with_static_inputs

    program: Program = model.program
    dynamic = dynamic_layers(program)
    if dynamic and calibration is not None:
        program = with_static_inputs(program, calibration_rows(program, calibration), "mse")
        dynamic = dynamic_layers(program)
    if dynamic:
        given = "their inputs are zero or not finite on the calibration data" if calibration is not None else ""
        raise InputError(
            f"{len(dynamic)} int8 operator(s) have no calibrated scale of their input{': ' + given if given else ''}",
            where=dynamic[0].name,
            hint="pass calibration= with some hundred rows, or optimize with quantize-linears{activations=mse}",
        )
    return exported(with_qdq(program))


def _require_compiled(model: object) -> None:
    if not isinstance(model, CompiledModel):
        raise InputError(
            f"expected a CompiledModel, got {type(model).__name__}",
            hint="pass the result of recfx.optimize or recfx.load",
        )
