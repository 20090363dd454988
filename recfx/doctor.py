"""`recfx doctor`: the installed and the missing parts, and how to get them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform

import torch

from recfx.targets import BACKENDS, missing

_EXTRAS = {
    "pyarrow": ("reads MovieLens in parquet files", "pip install 'recfx[data]'"),
    "hypothesis": ("property tests of passes with recfx.testing", "pip install 'recfx[testing]'"),
    "onnxscript": ("ONNX forms of programs with recfx.ops.onnx", "pip install 'recfx[onnx]'"),
    "uvicorn": ("serving over HTTP: recfx serve", "pip install 'recfx[serve]'"),
    "grpcio": ("serving over gRPC: recfx serve --grpc-port", "pip install 'recfx[serve]'"),
    "opentelemetry-sdk": ("spans of requests: recfx serve --otel", "pip install 'recfx[otel]'"),
    "torchrec": ("KeyedJaggedTensor inputs", "pip install torchrec fbgemm-gpu-cpu, in versions that fit torch"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        subject: The part that was examined.
        present: Whether it is there and works.
        detail: Version or state.
        hint: How to get it, when it is missing.
    """

    subject: str
    present: bool
    detail: str
    hint: str = ""


def examine() -> list[Finding]:
    """Examines Python, torch, the processor, every backend and every optional package."""
    low, high = (2, 11), (2, 15)
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    findings = [
        Finding("python", True, platform.python_version()),
        Finding(
            "torch",
            low <= version <= high,
            torch.__version__,
            f"recfx is made for torch {low[0]}.{low[1]} to {high[0]}.{high[1]}",
        ),
        Finding(
            "processor",
            True,
            f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        ),
    ]
    for name in BACKENDS:
        reason = missing(name)
        state = BACKENDS[name].state() if reason is None else "missing"
        findings.append(Finding(f"backend {name}", reason is None, state, reason or ""))
    for package, (purpose, hint) in _EXTRAS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, False, f"optional: {purpose}", hint))
        else:
            findings.append(Finding(package, True, found))
    return findings
