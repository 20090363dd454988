"""Engines: built by torch-tensorrt, kept in the cache, and run on torch's memory."""

from __future__ import annotations

import hashlib
import importlib
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from recfx.errors import ArtifactError, TargetError
from recfx.ir.canonical import content_digest
from recfx.ir.region import Region
from recfx.progress import stage_line
from recfx.targets import package_cache
from recfx.targets.tensorrt import package
from recfx.targets.tensorrt.handover import BATCH, OTHER, HandedOver

Runner = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]

#: Changes when engines of older versions of recfx must not be used.
_FORMAT = 1

_lock = threading.Lock()


def key_of(region: Region) -> str:
    """The name of a region's engine: its content, the versions, the GPU and the settings; "" for a region without a digest."""
    try:
        content = content_digest(region)
    except ArtifactError:
        return ""
    settings = repr((sorted(package.settings().items()), BATCH, OTHER, _FORMAT))
    parts = (content, package.identity(), torch.__version__, package.gpu(), settings)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def engine_of(region: Region, handed: HandedOver) -> bytes:
    """The engine of a region, from the cache or built now.

    Raises:
        TargetError: TensorRT cannot build it.
    """
    folder, key = package_cache.default_folder("tensorrt"), key_of(region)
    with _lock:
        found = package_cache.stored(folder, key) if key else None
        if found is not None:
            return found[0].read_bytes()
        begun = time.perf_counter()
        engine = built(handed)
        if key:
            with TemporaryDirectory(prefix="recfx-tensorrt-") as made:
                file = Path(made) / "engine"
                file.write_bytes(engine)
                seconds = round(time.perf_counter() - begun, 1)
                package_cache.store(folder, key, file, {"seconds": seconds, "built by": package.identity()})
        return engine


def built(handed: HandedOver) -> bytes:
    """Builds an engine.

    Raises:
        TargetError: torch-tensorrt cannot convert an operator in this form, or TensorRT cannot build the engine.
    """
    torch_tensorrt = package.module()
    specs = [
        torch_tensorrt.Input(min_shape=low, opt_shape=usual, max_shape=high, dtype=dtype, name=name)
        if low != high
        else torch_tensorrt.Input(shape=low, dtype=dtype, name=name)
        for name, dtype, (low, usual, high) in zip(handed.input_names, handed.dtypes(), handed.profiles(), strict=True)
    ]
    with stage_line("tensorrt") as begin:
        begin("building an engine, which takes seconds to minutes; later runs find it in the cache")
        try:
            with warnings.catch_warnings(), torch.no_grad(), torch_tensorrt.logging.internal_errors():
                warnings.simplefilter("ignore")
                engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                    handed.exported.program, arg_inputs=specs, **package.settings()
                )
        except Exception as error:
            line = str(error).strip().partition("\n")[0]
            raise TargetError(
                f"TensorRT cannot build the region: {type(error).__name__}: {line[:300]}",
                hint="give the region to another backend, such as 'eager'",
            ) from error
    return bytes(engine)


def runner(engine: bytes, handed: HandedOver) -> Runner:
    """The function of an engine: inputs on the GPU -> results on the GPU.

    Raises:
        TargetError: The engine was built for another GPU or by another version of TensorRT.
    """
    package.module()
    runtime: Any = importlib.import_module("torch_tensorrt.runtime")
    dynamo: Any = importlib.import_module("torch_tensorrt.dynamo")
    try:
        module = runtime.TorchTensorRTModule(
            serialized_engine=engine,
            input_binding_names=handed.input_names,
            output_binding_names=handed.output_names,
            settings=dynamo.CompilationSettings(**package.settings()),
        )
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise TargetError(
            f"TensorRT cannot load the engine of the region: {type(error).__name__}: {line[:300]}",
            hint=f"remove {package_cache.default_folder('tensorrt')}, and the engine is built again",
        ) from error
    return _Engine(module)


class _Engine:
    """An engine. It has one state of execution, so one call runs at a time."""

    def __init__(self, module: Any) -> None:
        self._module, self._lock = module, threading.Lock()

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        with self._lock:
            made = self._module(*inputs)
        return (made,) if isinstance(made, torch.Tensor) else tuple(made)
