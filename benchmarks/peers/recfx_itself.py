"""recfx: its defaults, its precisions, and hoisting of operators that depend only on the request."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch

from benchmarks.job import Inputs, Job
from benchmarks.peer import Peer, Precision, Run


class Recfx(Peer):
    """recfx with further arguments of a subclass or an instance."""

    packages = ("recfx",)
    ours = True
    copies = 1.0
    options: ClassVar[dict[str, Any]] = {}

    def available(self) -> str | None:
        import recfx

        known = inspect.signature(recfx.optimize).parameters
        missing = [option for option in self._wanted() if option not in known]
        return f"recfx.optimize has no {', '.join(missing)} in this version" if missing else None

    def _wanted(self) -> list[str]:
        return list(self.options)

    def prepare(self, job: Job) -> Run:
        import recfx

        compiled = recfx.optimize(job.model, target="cpu", example_inputs=job.inputs, **self.options)
        return _settled(compiled, job.inputs)


def _settled(compiled: Run, inputs: tuple[object, ...]) -> Run:
    """Returns the compiled model after a first call, when its tables are on large pages."""
    from recfx.kernels import huge_pages

    compiled(*inputs)
    huge_pages.wait()
    return compiled


class RecfxFp32(Recfx):
    name = "recfx"
    summary = 'recfx.optimize(target="cpu"), default pipeline'


class RecfxBf16(Recfx):
    name = "recfx bf16"
    summary = 'recfx.optimize(precision="bf16")'
    precision: ClassVar[Precision] = "bf16"
    options: ClassVar[dict[str, Any]] = {"precision": "bf16"}


class RecfxInt8(Recfx):
    name = "recfx int8"
    summary = 'recfx.optimize(precision="int8"), dense layers and tables'
    precision: ClassVar[Precision] = "int8"
    options: ClassVar[dict[str, Any]] = {"precision": "int8"}


class _OfRequests(Recfx):
    """Peers for cases in which some inputs have one row per request."""

    def declines(self, job: Job) -> str | None:
        return None if job.request else "this case has no inputs of a request"


class RecfxAsWritten(_OfRequests):
    """The model compiled with all products as written. Fused target attention divides its first layer even without
    hoisting, so that the unhoisted model already saves most of the arithmetic that request mode saves
    (`benchmarks.cases.request`).
    """

    name = "recfx as written"
    summary = "recfx.optimize without fuse-target-attention, whose kernel splits the first layer over query and keys; request cases only"

    def prepare(self, job: Job) -> Run:
        import recfx
        from recfx.passes import NATIVE_PIPELINE

        written = NATIVE_PIPELINE.replace("fuse-target-attention,", "")
        return _settled(
            recfx.optimize(job.model, target="cpu", example_inputs=job.inputs, pipeline=written, **self.options),
            job.inputs,
        )


class RecfxRequest(_OfRequests):
    """The same model with `request_inputs`, called with one row of these inputs."""

    name = "recfx request"
    summary = "recfx.optimize(request_inputs=...), called with one row of them; request cases only"

    def _wanted(self) -> list[str]:
        return [*self.options, "request_inputs"]

    def prepare(self, job: Job) -> Run:
        import recfx

        names = list(inspect.signature(job.model.forward).parameters)
        told = {**self.options, "request_inputs": tuple(names[position] for position in job.request)}
        compiled = recfx.optimize(job.model, target="cpu", example_inputs=self._one_row(job, job.inputs), **told)
        return _settled(compiled, self.convert(job, job.inputs))

    def convert(self, job: Job, inputs: Inputs) -> tuple[object, ...]:
        return self._one_row(job, inputs)

    def _one_row(self, job: Job, inputs: Inputs) -> Inputs:
        return tuple(
            value[:1].clone(memory_format=torch.contiguous_format) if position in job.request else value
            for position, value in enumerate(inputs)
        )


class RecfxRequestInt8(RecfxRequest):
    name = "recfx request int8"
    summary = 'the same with precision="int8"'
    precision: ClassVar[Precision] = "int8"
    options: ClassVar[dict[str, Any]] = {"precision": "int8"}


PEERS = (RecfxFp32(), RecfxBf16(), RecfxInt8(), RecfxAsWritten(), RecfxRequest(), RecfxRequestInt8())
