"""OpenVINO on the CPU: f32, bf16, and int8 through NNCF. The precision is always stated, as the default on a CPU with bf16 is bf16."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

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
    import openvino

    return job.store.once("openvino converted", lambda: openvino.convert_model(job.exported()))


def _quantised(job: Job) -> Any:
    import nncf

    batches = [[value.numpy() for value in values] for values in job.calibration()]
    nncf.set_log_level("ERROR")
    return nncf.quantize(_converted(job), nncf.Dataset(batches), subset_size=len(batches))


def _request(network: Any, hint: str, threads: int) -> Any:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # nobody else's threads are pinned
    }
    compiled = openvino.Core().compile_model(network, "CPU", settings)
    return compiled.create_infer_request()


PEERS = (OpenVINOF32(), OpenVINOBf16(), OpenVINOInt8())
