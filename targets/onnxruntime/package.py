"""The onnxruntime and onnx packages: whether they can be used, and sessions with the settings of this backend."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from recfx.onnx.types import CODES

#: The first and the last version of ONNX Runtime with which the tests have run.
OLDEST, NEWEST = (1, 31), (1, 31)

INSTALL = 'pip install "recfx[onnxruntime]"'

_PACKAGES = ("onnxruntime", "onnx")


def absent() -> str | None:
    """The missing package and the next step; None if both are installed. They are not imported, which takes tenths of a second."""
    names = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"{' and '.join(names)} not installed: {INSTALL}" if names else None


def unavailable() -> str | None:
    """The missing or broken package and the next step; None if both can be imported."""
    return absent() or _broken()


@functools.cache
def _broken() -> str | None:
    """The error of importing the packages."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken installation raises anything
            problem = str(error).strip().partition("\n")[0]
            return f"{name} cannot be imported ({type(error).__name__}: {problem}): reinstall it with {INSTALL}"
    return None


def version() -> str:
    """The version of ONNX Runtime. It is imported only if it is installed under another name, as its builds for other devices are."""
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        import onnxruntime

        return str(onnxruntime.__version__)


def untested() -> str | None:
    """A sentence about a version of ONNX Runtime that the tests have not run with; None for tested ones."""
    held = version()
    numbers = tuple(int(part) for part in held.split(".")[:2] if part.isdigit())
    if OLDEST <= numbers <= NEWEST:
        return None
    low, high = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return f"onnxruntime {held} is not among the tested versions {low} to {high}"


@functools.cache
def warn_if_untested() -> None:
    """Warns once about an untested version."""
    notice = untested()
    if notice is not None:
        warnings.warn(f"{notice}; results are compared as always", stacklevel=2)


def cpu() -> Any:
    """The device of torch's memory."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    return runtime.OrtDevice(runtime.OrtDevice.cpu(), runtime.OrtDevice.default_memory(), 0)


def new_binding(session: Any) -> Any:
    """An empty binding of inputs and outputs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    return runtime.SessionIOBinding(session)


def open_session(model: bytes, threads: int, state: Mapping[str, torch.Tensor], *, optimized: bool = True) -> Any:
    """A session on a model.

    Args:
        model: The model.
        threads: The number of threads of one call.
        state: Name of an initializer -> its values, which the session copies.
        optimized: Whether the session rewrites its graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the runtime would print them as well
    options.enable_cpu_mem_arena = optimized
    # Spinning threads would take the cores from torch's, which run the other regions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    held = {name: _ort_value(tensor) for name, tensor in state.items()}
    if held:
        options.add_external_initializers(list(held), list(held.values()))
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return made._sess


def _ort_value(tensor: torch.Tensor) -> Any:
    """A tensor as a value of ONNX Runtime that shares its memory."""
    import onnxruntime

    held = tensor.detach().contiguous()
    code = CODES[held.dtype]
    if held.dtype is torch.bfloat16 or held.dtype is torch.float16:
        held = held.view(torch.int16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(held.numpy(), code)
