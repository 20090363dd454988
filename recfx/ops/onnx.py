"""ONNX forms of the dialect's operators, and export of programs. Needs onnx and onnxscript, which are optional.

    from recfx.ops import onnx

    model = onnx.export(fast.program)                     # an onnx.ModelProto
    torch.onnx.export(module, args, dynamo=True, custom_translation_table=onnx.table())

The ONNX form of an operator is its decomposition, translated by torch's exporter. `onnx_translations` has translations
of operators that the exporter lacks or writes as loops.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recfx.errors import TargetError
from recfx.ir.program import Program
from recfx.ops.exported import dimension_names, exported
from recfx.ops.library import DECOMPOSITIONS
from recfx.ops.to_aten import decompose

_PACKAGES = ("onnx", "onnxscript")


def missing() -> str | None:
    """How to install the packages that the export needs; None when they are present."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"pip install {' '.join(absent)}" if absent else None


class Table(dict[Any, Callable[..., Any]]):
    """Translations of operators, in a dictionary. While one exists, torch's table of decompositions holds those of the dialect."""


def table() -> Table:
    """Translations for `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`.

    With them, models that hold operators of the dialect are exported: torch's exporter decomposes operators without a translation by
    torch's own table of decompositions, so that table holds those of the dialect until the result of this function is deleted. Keep it
    no longer than the export: meanwhile, torch computes the shapes of the dialect's results by the decompositions, which is slower.

    Raises:
        TargetError: onnx or onnxscript is not installed.
    """
    found = Table(_translations())
    _lend()
    weakref.finalize(found, _take_back).atexit = False
    return found


def _translations() -> dict[Any, Callable[..., Any]]:
    """Translations that torch's exporter lacks."""
    hint = missing()
    if hint is not None:
        raise TargetError("onnx and onnxscript are needed to export to ONNX", hint=hint)
    from recfx.ops.onnx_translations import TRANSLATIONS

    return TRANSLATIONS


#: Guards the two below; a finalizer may run inside `_lend`.
_lock = threading.RLock()

#: One entry for each `Table` that exists.
_tables: list[None] = []

#: Operators whose decompositions were put into torch's table. A decomposition that was there before stays.
_lent: set[Any] = set()


def _lend() -> None:
    """Puts the decompositions of the dialect into torch's table."""
    known: dict[Any, Any] = torch._decomp.decomposition_table
    with _lock:
        _tables.append(None)
        for target, decomposition in DECOMPOSITIONS.items():
            if target not in known:
                known[target] = decomposition
                _lent.add(target)


def _take_back() -> None:
    """Removes the decompositions of the dialect from torch's table if this was the last `Table`."""
    with _lock:
        _tables.pop()
        while _lent and not _tables:
            torch._decomp.decomposition_table.pop(_lent.pop(), None)


def export(program: Program, path: str | os.PathLike[str] | None = None) -> Any:
    """A program as an ONNX model with the same inputs, outputs and free dimensions.

    Args:
        program: The program.
        path: A file to write; large tables are stored in a file beside it.

    Returns:
        The model, an `onnx.ModelProto`; with `path` None.

    Raises:
        TargetError: onnx or onnxscript is not installed, an input is not a tensor, or an operator has no ONNX form.
    """
    translations = _translations()
    made = decompose(program)
    names = [node.name for node in made.placeholders()]
    try:
        with _quiet(), torch.no_grad():
            found = torch.onnx.export(
                exported(made),
                input_names=names,
                dynamic_shapes=dimension_names(made),
                dynamo=True,
                verbose=False,
                custom_translation_table=translations,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError, RuntimeError) as error:
        raise TargetError(
            f"the program cannot be exported to ONNX: {_reason(error)}",
            hint="export a part of the model without this operator",
        ) from error
    assert found is not None
    if path is None:
        return found.model_proto
    found.save(path, external_data=made.state_bytes() > _INLINE_BYTES)
    return None


#: More state than this is stored beside the model: one file of protobuf holds 2 GiB at most.
_INLINE_BYTES = 1 << 30


def _reason(error: BaseException) -> str:
    """The line that names the operator, from an error of the exporter."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "No ONNX function found" in line or "NotImplementedError" in line]
    return (named or lines or [type(error).__name__])[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings about its own deprecations and about packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
