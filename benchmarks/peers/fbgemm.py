"""FBGEMM's table-batched n-bit lookup: a reference for lookup kernels, for cases that consist only of lookups."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.job import Inputs, Job
from benchmarks.lookup_model import LookupModel
from benchmarks.peer import Peer, Precision, Run


class FbgemmFp32(Peer):
    name = "fbgemm lookup"
    summary = "IntNBitTableBatchedEmbeddingBagsCodegen, fp32 tables, ids in its own layout; only lookup cases"
    packages = ("fbgemm-gpu-cpu",)
    modules = ("fbgemm_gpu",)
    copies = 1.0
    bits: ClassVar[int] = 32

    def declines(self, job: Job) -> str | None:
        return None if isinstance(job.model, LookupModel) else "it supports only cases that consist of lookups"

    def prepare(self, job: Job) -> Run:
        lookup = job.store.once(self.name, lambda: _tables(job.model, self.bits))

        def run(ids: Tensor, offsets: Tensor) -> object:
            with torch.inference_mode():
                return lookup(ids, offsets)

        run(*self.convert(job, job.inputs))
        return run

    def convert(self, job: Job, inputs: Inputs) -> tuple[Tensor, Tensor]:
        (ids,) = inputs
        model = job.model
        assert isinstance(model, LookupModel)
        fields = torch.split_with_sizes(ids, model.hots, dim=1)
        lengths = torch.tensor(model.hots).repeat_interleave(len(ids))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return torch.cat([field.reshape(-1) for field in fields]).int(), offsets.int()


class FbgemmInt8(FbgemmFp32):
    name = "fbgemm lookup int8"
    summary = "the same with int8 rows, each with its scale and bias"
    precision: ClassVar[Precision] = "int8"
    bits = 8


def _tables(model: Any, bits: int) -> Any:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    kind = SparseType.FP32 if bits == 32 else SparseType.INT8
    weights = [bag.weight.detach() for bag in model.bags]
    lookup = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("", *weight.shape, kind, EmbeddingLocation.HOST) for weight in weights],
        device="cpu",
        output_dtype=SparseType.FP32,
        pooling_mode=PoolingMode.SUM,
    )
    lookup.initialize_weights()
    for (place, _), weight in zip(lookup.split_embedding_weights(split_scale_shifts=False), weights, strict=True):
        place.copy_(weight.view(torch.uint8) if bits == 32 else _int8_rows(weight))
    return lookup


def _int8_rows(weight: Tensor) -> Tensor:
    """fp32 [rows, D] -> bytes [rows, 4 + D]: scale and bias in fp16, then the values. torch's own format stores both in
    fp32 after the values."""
    rows: Tensor = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight)
    width = weight.shape[1]
    numbers = rows[:, width:].contiguous().view(torch.float32).half()
    return torch.cat([numbers.view(torch.uint8), rows[:, :width]], dim=1)


PEERS = (FbgemmFp32(), FbgemmInt8())
