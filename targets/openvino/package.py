"""The package openvino: whether it is installed and works, its version, and the settings with which models are compiled."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from recfx.errors import TargetError

INSTALL = 'pip install "recfx[openvino]"'

#: The first and the last release with which the backend was tested. Other releases work with a notice in `recfx doctor`.
TESTED = ((2026, 4), (2026, 4))

_OPSET = "openvino.opset15"


def absent() -> str | None:
    """None when openvino is installed, otherwise how to install it. Importing it takes a tenth of a second, so it is not imported."""
    return INSTALL if importlib.util.find_spec("openvino") is None else None


@functools.cache
def missing() -> str | None:
    """None when openvino can be imported, otherwise the reason and how to install it."""
    if (hint := absent()) is not None:
        return hint
    try:
        importlib.import_module(_OPSET)
    except Exception as error:  # noqa: BLE001 - a damaged installation may raise any error
        return f"importing openvino fails with {type(error).__name__}: {_first_line(error)}; reinstall it: {INSTALL}"
    return None


def version() -> str:
    """The version of the package; "" when it is not installed."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return ""


def untested() -> str:
    """A notice when the release is outside `TESTED`; "" otherwise."""
    numbers = tuple(int(part) for part in version().split(".")[:2] if part.isdigit())
    if TESTED[0] <= numbers <= TESTED[1]:
        return ""
    low, high = (".".join(map(str, release)) for release in TESTED)
    return f"not tested with this release, but with {low if low == high else f'{low} to {high}'}"


def opset() -> Any:
    """The module of OpenVINO's operators."""
    _require()
    return importlib.import_module(_OPSET)


def openvino() -> Any:
    """The package."""
    _require()
    return importlib.import_module("openvino")


@functools.cache
def core() -> Any:
    """OpenVINO's runtime, one for the process."""
    return openvino().Core()


def plain_infer(request: Any) -> Callable[[], Any]:
    """The inference of a request whose inputs and results are bound.

    OpenVINO's class for Python copies the results into a dictionary, which takes an eighth of the call of a small model. Its base class,
    which is bound to C++, does so only if asked. Where there is no such base, requests run by their own method.
    """
    found = getattr(super(type(request), request), "infer", None)
    return request.infer if found is None else functools.partial(found, {}, True, False)


def settings(threads: int, precision: str) -> dict[str, Any]:
    """The settings of a compiled model.

    Args:
        threads: The number of threads of a call.
        precision: "f32" or "bf16". OpenVINO's own choice on processors with bfloat16 instructions is bf16, so it is always given.
    """
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # torch's threads are not pinned, and both run on the same cores in turn
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations are quantised only where the program says so
        "KV_CACHE_PRECISION": precision,
        "CPU_DENORMALS_OPTIMIZATION": False,
    }


def _require() -> None:
    problem = missing()
    if problem is not None:
        raise TargetError("the backend 'openvino' cannot run here", hint=problem)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
