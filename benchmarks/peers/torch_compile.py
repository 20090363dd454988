"""torch.compile in its modes, compiled for each batch size."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from benchmarks.job import Job
from benchmarks.peer import Peer, Run, warmed


def compiler_missing() -> str | None:
    """Why Inductor cannot compile for the CPU, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "no C++ compiler: install g++"
    return None


def compiled(model: nn.Module, job: Job, options: dict[str, Any]) -> Run:
    """Compiles a model and runs it once, under inference mode."""
    quick = torch.compile(model, dynamic=False, options=options or None)

    return warmed(quick, job)  # compiles


class TorchCompile(Peer):
    name = "torch.compile"
    summary = "torch.compile(dynamic=False), default mode, under torch.inference_mode"
    options: ClassVar[dict[str, Any]] = {}

    def available(self) -> str | None:
        return compiler_missing()

    def prepare(self, job: Job) -> Run:
        return compiled(job.model, job, self.options)

    def release(self) -> None:
        torch._dynamo.reset()


class TorchCompileFreezing(TorchCompile):
    name = "torch.compile freezing"
    summary = "the same with frozen weights, which can be packed in advance"
    options: ClassVar[dict[str, Any]] = {"freezing": True}
    copies = 1.0


class TorchCompileMaxAutotune(TorchCompile):
    name = "torch.compile max-autotune"
    summary = "the same with frozen weights and kernels chosen by measurement"
    options: ClassVar[dict[str, Any]] = {"freezing": True, "max_autotune": True}
    copies = 1.0


PEERS = (TorchCompile(), TorchCompileFreezing(), TorchCompileMaxAutotune())
