"""OpenVINO on the CPU: f32, bf16, and int8 through NNCF. The precision is always stated, as the default on a CPU with bf16 is bf16."""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.bags import gather_bags
from benchmarks.job import Job
from benchmarks.peer import Peer, Precision, Run


class OpenVINOF32(Peer):
    name = "openvino"
    summary = "OpenVINO on the exported program, free batch, INFERENCE_PRECISION_HINT f32"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    modules: ClassVar[tuple[str, ...]] = ("openvino",)
    copies = 2.0
    hint: ClassVar[str] = "f32"

    def prepare(self, job: Job) -> Run:
        request = job.store.once((self.name, job.threads), lambda: _request(self.network(job), self.hint, job.threads))

        def run(*values: Tensor) -> object:
            arrays = [value.numpy() for value in values]
            outputs = request.infer(arrays, share_inputs=True, share_outputs=True)
            return [torch.from_numpy(output) for output in outputs.values()]

        run(*job.inputs)
        return run

    def network(self, job: Job) -> Any:
        """The model to compile."""
        return _converted(job)


class OpenVINOBf16(OpenVINOF32):
    name = "openvino bf16"
    summary = "the same with INFERENCE_PRECISION_HINT bf16"
    precision: ClassVar[Precision] = "bf16"
    hint = "bf16"


class OpenVINOInt8(OpenVINOF32):
    name = "openvino int8"
    summary = "the same quantised by nncf.quantize, calibrated on 512 rows"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    modules: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    precision: ClassVar[Precision] = "int8"

    def network(self, job: Job) -> Any:
        return job.store.once("nncf", lambda: _quantised(job))


def _converted(job: Job) -> Any:
    return job.store.once("openvino converted", lambda: _convert(job))


def _convert(job: Job) -> Any:
    """OpenVINO's bags count padding as rows, which is wrong for an average; bags with padding become lookups and
    sums."""
    import openvino

    padded = any(isinstance(m, nn.EmbeddingBag) and m.padding_idx is not None for m in job.model.modules())
    program = job.traced(gather_bags(job.model, only_padded=True)) if padded else job.exported()
    return openvino.convert_model(program)


def _quantised(job: Job) -> Any:
    import nncf

    batches = [[value.numpy() for value in values] for values in job.calibration()]
    nncf.set_log_level("ERROR")
    with contextlib.redirect_stdout(io.StringIO()):  # hides NNCF's progress bars
        return nncf.quantize(_converted(job), nncf.Dataset(batches), subset_size=len(batches))


def _request(network: Any, hint: str, threads: int) -> Any:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # threads of other libraries are not pinned either
    }
    compiled = openvino.Core().compile_model(network, "CPU", settings)
    return compiled.create_infer_request()


PEERS = (OpenVINOF32(), OpenVINOBf16(), OpenVINOInt8())
