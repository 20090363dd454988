"""torch.compile in its default mode, compiled for each batch size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.peer import Peer, Run


class TorchCompile(Peer):
    name = "torch.compile"
    summary = "torch.compile(dynamic=False), default mode, under torch.inference_mode"

    def available(self) -> str | None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "no C++ compiler: install g++"
        return None

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        compiled = torch.compile(model, dynamic=False)

        def run(*values: Tensor) -> object:
            with torch.inference_mode():
                return compiled(*values)

        run(*inputs)  # compiles
        return run

    def release(self) -> None:
        torch._dynamo.reset()


PEERS = (TorchCompile(),)
