"""The TensorRT backend."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import fx

from recfx.cost.estimate import Estimate
from recfx.errors import ArtifactError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.targets.base import Backend, Lowered, Refused, Verdict, is_operator
from recfx.targets.region_sizes import is_size
from recfx.targets.tensorrt import package

if TYPE_CHECKING:
    from recfx.targets.tensorrt.engine import Runner
    from recfx.targets.tensorrt.handover import HandedOver
    from recfx.targets.tensorrt.times import Gpu

_RECORD, _ENGINE = "tensorrt.json", "engine"

#: Set to 1, engines in saved models are used. An engine holds code for the GPU, so that only engines of trusted origin may be loaded.
TRUST = "RECFX_TRUST_ENGINES"


class TensorRTBackend(Backend):
    """Runs a region as one TensorRT engine for all batch sizes, in float32 without TF32."""

    name: ClassVar[str] = "tensorrt"
    devices: ClassVar[frozenset[str]] = frozenset({"cuda"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return package.missing()

    def version(self) -> str:
        return package.identity()

    def state(self) -> str:
        from recfx.targets.package_cache import default_folder

        notice = package.untested()
        kept = f"engines are kept in {default_folder(self.name)}"
        return f"ready, {package.identity()} on {package.gpu()}; {kept}" + (f"; {notice}" if notice else "")

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        from recfx.targets.tensorrt.support import refusals

        region = program if isinstance(program, Region) else Region.whole(program)
        reasons = refusals(region, self._converter)
        return {
            node: Verdict(node not in reasons, reasons.get(node, ""))
            for node in region.graph.nodes
            if node.op not in ("placeholder", "get_attr", "output")
        }

    def estimate(self, region: Region, rows: int, threads: int) -> Estimate | None:
        from recfx.targets.tensorrt.times import estimate

        return estimate(region, rows, self._gpu())

    def slow_to_lower(self, region: Region) -> bool:
        from recfx.targets.package_cache import default_folder, stored
        from recfx.targets.tensorrt.engine import key_of

        folder = default_folder(self.name)
        if not folder.is_dir():
            return True  # without the key, which takes a digest of all weights
        key = key_of(region)
        return not key or stored(folder, key) is None

    def lower(self, region: Region) -> Lowered:
        return self._lowered(region, None)

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        """The engine and its identity. Loading uses it only if the user trusts it; see `TRUST`."""
        from recfx.targets.tensorrt.engine import key_of

        engine = getattr(lowered.body, "content", b"")
        record = {"key": key_of(lowered.region), "sha256": hashlib.sha256(engine).hexdigest()}
        return {_RECORD: json.dumps(record).encode(), _ENGINE: engine}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        from recfx.targets.tensorrt.engine import key_of

        try:
            record = json.loads(bytes(files[_RECORD]))
            engine = bytes(files[_ENGINE])
            fits = isinstance(record, dict) and record.get("sha256") == hashlib.sha256(engine).hexdigest()
        except (KeyError, ValueError):
            fits = False
        if not fits:
            raise ArtifactError("the files do not describe a region of this backend", where=_RECORD)
        trusted = os.environ.get(TRUST) == "1" and engine and record.get("key") == key_of(region)
        return self._lowered(region, engine if trusted else None)

    def _lowered(self, region: Region, engine: bytes | None) -> Lowered:
        """Lowers a region with a stored engine, or with one from the cache or built now."""
        from recfx.targets.exported import computed_outputs
        from recfx.targets.tensorrt.call import Body
        from recfx.targets.tensorrt.handover import hand_over
        from recfx.targets.tensorrt.support import refusals

        reasons = refusals(region, self._converter, lowering=True)
        if reasons:
            raise Refused({node.name: reason for node, reason in reasons.items()})
        operators = [node for node in region.graph.nodes if is_operator(node) and not is_size(node)]
        sized = frozenset(region.outputs)
        if not computed_outputs(region):
            return Lowered(self.name, region, flat_function(region), operators=len(operators), sized=sized)
        problem = self._problem_of_size(region)
        if problem:
            raise Refused({node.name: problem for node in operators})
        handed = hand_over(region)
        content = self._engine(region, handed) if engine is None else engine
        body = Body(region, handed, self._runner(content, handed), self._device(), content)
        body.try_once()
        return Lowered(self.name, region, body, operators=len(operators), sized=sized)

    def _converter(self, node: fx.Node) -> str:
        """Why torch-tensorrt cannot convert an operator; "" if it can."""
        from recfx.targets.tensorrt.converters import refusal

        return refusal(node)

    def _problem_of_size(self, region: Region) -> str:
        """Why a region is too small for an engine; "" if it is not."""
        from recfx.targets.tensorrt.handover import BATCH
        from recfx.targets.tensorrt.times import problem_of_size

        return problem_of_size(region, BATCH[1], self._gpu())

    def _engine(self, region: Region, handed: HandedOver) -> bytes:
        from recfx.targets.tensorrt.engine import engine_of

        return engine_of(region, handed)

    def _runner(self, engine: bytes, handed: HandedOver) -> Runner:
        from recfx.targets.tensorrt.engine import runner

        return runner(engine, handed)

    def _device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def _gpu(self) -> Gpu:
        from recfx.targets.tensorrt.times import Gpu

        return Gpu.of(torch.cuda.get_device_properties(torch.cuda.current_device()))
