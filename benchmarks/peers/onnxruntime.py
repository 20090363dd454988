"""ONNX Runtime: fp32, and its own int8 quantisers. Bags are written as lookups and sums, as the export of
nn.EmbeddingBag is a loop over rows."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.bags import gather_bags
from benchmarks.job import Inputs, Job
from benchmarks.peer import Peer, Precision, Run


class OnnxRuntime(Peer):
    """A session on a model file, which a subclass makes."""

    packages = ("onnxruntime", "onnx", "onnxscript")
    modules = ("onnxruntime", "onnx", "onnxscript")
    copies = 3.0

    def prepare(self, job: Job) -> Run:
        path = job.store.once(self.name, lambda: self.file(job))
        session = job.store.once((self.name, job.threads), lambda: _session(path, job.threads))
        names = [given.name for given in session.get_inputs()]

        def run(*values: Tensor) -> object:
            outputs = session.run(None, {name: value.numpy() for name, value in zip(names, values, strict=True)})
            return [torch.from_numpy(output) for output in outputs]

        run(*job.inputs)
        return run

    @abstractmethod
    def file(self, job: Job) -> Path:
        """The model file."""


class OnnxRuntimeFp32(OnnxRuntime):
    name = "onnxruntime"
    summary = "ONNX Runtime on torch.onnx.export(dynamo=True), free batch"

    def file(self, job: Job) -> Path:
        return _exported(job)


class OnnxRuntimeDynamic(OnnxRuntime):
    name = "onnxruntime int8 dynamic"
    summary = "quantize_dynamic: int8 per channel, activations quantised at run time, tables too"
    precision: ClassVar[Precision] = "int8"

    def file(self, job: Job) -> Path:
        from onnxruntime.quantization import quantize_dynamic

        path = job.store.folder / "dynamic.onnx"
        quantize_dynamic(str(_preprocessed(job)), str(path), per_channel=True, use_external_data_format=True)
        return path


class OnnxRuntimeStatic(OnnxRuntime):
    name = "onnxruntime int8 static"
    summary = "quantize_static of the matrix products: int8 per channel, activations calibrated"
    precision: ClassVar[Precision] = "int8"

    def file(self, job: Job) -> Path:
        from onnxruntime.quantization import QuantFormat, quantize_static

        path = job.store.folder / "static.onnx"
        source = _preprocessed(job)
        names = [given.name for given in _session(source, 1).get_inputs()]
        quantize_static(
            str(source),
            str(path),
            _reader(names, job.calibration()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            use_external_data_format=True,
        )
        return path


def _exported(job: Job) -> Path:
    return job.store.once("onnx", lambda: _export(job))


def _export(job: Job) -> Path:
    path = job.store.folder / "model.onnx"
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)  # it warns about every package that it does not find
    try:
        program = torch.onnx.export(job.traced(gather_bags(job.model)), (), dynamo=True, verbose=False)
        assert program is not None
        program.save(str(path), external_data=True)  # a protobuf is limited to 2 GB
    finally:
        noise.setLevel(level)
    return path


def _preprocessed(job: Job) -> Path:
    return job.store.once("onnx preprocessed", lambda: _preprocess(job))


def _preprocess(job: Job) -> Path:
    """Without preprocessing, the quantisers fail in shape inference. ONNX Runtime's symbolic inference fails on an
    Expand of a free batch, so ONNX's inference is used."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = job.store.folder / "preprocessed.onnx"
    quant_pre_process(
        str(_exported(job)),
        str(path),
        skip_symbolic_shape=True,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        external_data_location="preprocessed.data",
    )
    model = onnx.load(str(path), load_external_data=False)
    # Removes the shapes of weights: quantize_dynamic transposes weights and then reports a contradiction.
    del model.graph.value_info[:]
    onnx.save(model, str(path))
    return path


def _reader(names: Sequence[str], sets: Sequence[Inputs]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Inputs] = iter(sets)

        def get_next(self) -> dict[str, Any] | None:
            values = next(self._left, None)
            return None if values is None else {name: v.numpy() for name, v in zip(names, values, strict=True)}

    return Reader()


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would occupy the cores while the next peer is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


PEERS = (OnnxRuntimeFp32(), OnnxRuntimeDynamic(), OnnxRuntimeStatic())
