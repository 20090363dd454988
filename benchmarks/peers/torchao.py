"""torchao: int8 linear layers, activations quantised at run time, compiled by Inductor as its documentation
recommends."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import nn

from benchmarks.job import Job
from benchmarks.peer import Peer, Precision, Run
from benchmarks.peers.torch_compile import compiled, compiler_missing


class TorchaoInt8(Peer):
    name = "torchao int8"
    summary = "torchao Int8DynamicActivationInt8WeightConfig on the linear layers, then torch.compile(dynamic=False)"
    packages = ("torchao",)
    modules = ("torchao",)
    precision: ClassVar[Precision] = "int8"

    def available(self) -> str | None:
        return super().available() or compiler_missing()

    def declines(self, job: Job) -> str | None:
        linear = any(isinstance(module, nn.Linear) for module in job.model.modules())
        return None if linear else "the model has no linear layer"

    def prepare(self, job: Job) -> Run:
        return compiled(job.store.once("torchao int8", lambda: _quantised(job.model)), job, {"freezing": True})

    def release(self) -> None:
        torch._dynamo.reset()


def _quantised(model: nn.Module) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    linear = {id(p) for module in model.modules() if isinstance(module, nn.Linear) for p in module.parameters()}
    tensors = [*model.parameters(), *model.buffers()]
    # All other state is shared with the model, because tables may have gigabytes.
    clone = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in linear})
    quantize_(clone, Int8DynamicActivationInt8WeightConfig())
    return clone


PEERS = (TorchaoInt8(),)
