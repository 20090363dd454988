"""The package torch-tensorrt: its builds and versions, the GPU that it needs, and the settings with which engines are built.

There are two builds, which share the module `torch_tensorrt`. The classic one compiles an engine for one GPU; the RTX build compiles
faster, for GPUs of workstations.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from typing import Any

import torch

from recfx.errors import TargetError

INSTALL = 'pip install "recfx[tensorrt]" for the classic build, or torch-tensorrt-rtx for the RTX build'

#: The first and the last release with which the backend was tested. Other releases work with a notice in `recfx doctor`.
TESTED = ((2, 13), (2, 13))

CLASSIC, RTX = "torch-tensorrt", "torch-tensorrt-rtx"
#: The distribution of each build -> that of the library behind it.
_LIBRARIES = {CLASSIC: "tensorrt", RTX: "tensorrt_rtx"}
#: The compute capabilities for which TensorRT-RTX has kernels, and the oldest that classic TensorRT has.
_RTX_CAPABILITIES = ((7, 5), (8, 6), (8, 9), (12, 0))
_OLDEST_CAPABILITY = (7, 5)


def missing() -> str | None:
    """None when engines can be built and run here, otherwise the reason and the next step."""
    absent = importlib.util.find_spec("torch_tensorrt") is None
    problem = _no_gpu()
    if problem is not None:
        return f"{problem}. The package is absent as well: {INSTALL}" if absent else problem
    if absent:
        return INSTALL
    return _unsuitable() or _broken()


def _no_gpu() -> str | None:
    if torch.version.cuda is None:
        return (
            f"engines run on a GPU of NVIDIA, and torch {torch.__version__} is built without CUDA: "
            "install a CUDA build of torch on a machine with a GPU, or pass target='cpu'"
        )
    if not torch.cuda.is_available():
        return "torch finds no GPU of NVIDIA: check the driver with nvidia-smi, run on a machine with a GPU, or pass target='cpu'"
    return None


def _unsuitable() -> str | None:
    """Why the installed build does not fit torch or the GPU."""
    release, own = _release(version()), _release(torch.__version__)
    if release and release != own:
        wanted = ".".join(map(str, own))
        return f"{build()} {version()} is made for torch {'.'.join(map(str, release))}: pip install '{build()}=={wanted}.*'"
    capability = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()} (compute capability {capability[0]}.{capability[1]})"
    if build() == RTX and capability not in _RTX_CAPABILITIES:
        return f"TensorRT-RTX has no kernels for {name}: pip install {CLASSIC}, the classic build"
    if build() == CLASSIC and capability < _OLDEST_CAPABILITY:
        return f"TensorRT has no kernels for {name}: pass target='eager'"
    return None


@functools.cache
def _broken() -> str | None:
    """The error of importing the package."""
    try:
        _import()
    except Exception as error:  # noqa: BLE001 - a damaged installation may raise any error
        line = str(error).strip().partition("\n")[0]
        return f"importing torch_tensorrt fails with {type(error).__name__}: {line}; reinstall it: {INSTALL}"
    return None


def build() -> str:
    """The distribution that is installed: `CLASSIC` or `RTX`; "" when none is."""
    return next((name for name in _LIBRARIES if _version_of(name)), "")


def version() -> str:
    """The version of the installed build; "" when none is installed."""
    return _version_of(build())


def identity() -> str:
    """The build, its version and that of the library behind it. An engine is valid for one of them only."""
    library = _LIBRARIES.get(build(), "")
    return f"{build()} {version()}, {library} {_version_of(library) or _version_of(f'{library}_cu13') or 'unknown'}"


def untested() -> str:
    """A notice when the release is outside `TESTED`; "" otherwise."""
    if TESTED[0] <= _release(version()) <= TESTED[1]:
        return ""
    low, high = (".".join(map(str, release)) for release in TESTED)
    return f"not tested with this release, but with {low if low == high else f'{low} to {high}'}"


def gpu() -> str:
    """The GPU for which engines are built: its name and its compute capability."""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"


def module() -> Any:
    """The package `torch_tensorrt`."""
    problem = missing()
    if problem is not None:
        raise TargetError("the backend 'tensorrt' cannot run here", hint=problem)
    return _import()


def settings() -> dict[str, Any]:
    """The settings of an engine, as arguments of torch-tensorrt's functions."""
    return {
        "disable_tf32": True,  # products of float32 would otherwise be rounded to 10 bits
        "truncate_double": False,
        "require_full_compilation": True,
        "min_block_size": 1,
        "immutable_weights": True,  # an engine that can be refitted holds its weights in a form that runs slower
        "decompose_attention": True,  # TensorRT-RTX 1.5 ends the process when it builds two fused attentions in one engine
        "attn_bias_is_causal": False,  # the default takes every mask of an attention for a causal one
        "cache_built_engines": False,
        "reuse_cached_engines": False,
    }


def _import() -> Any:
    """Imports the package. It redirects all warnings of the process to its log, which is undone."""
    redirected = getattr(logging, "_warnings_showwarning", None) is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("torch_tensorrt")
    finally:
        if not redirected:
            logging.captureWarnings(False)


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution) if distribution else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())
