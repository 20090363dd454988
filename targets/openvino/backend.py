"""The OpenVINO backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import fx

from recfx.errors import ArtifactError, TargetError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets.base import Backend, Lowered, Refused, Verdict, is_operator
from recfx.targets.openvino import package
from recfx.targets.region_sizes import is_size

_FILE = "openvino.json"


class OpenVINOBackend(Backend):
    """Runs a region as one OpenVINO model on the CPU, in float32."""

    name: ClassVar[str] = "openvino"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return package.missing()

    def absent(self) -> str | None:
        return package.absent()

    def version(self) -> str:
        return package.version()

    def state(self) -> str:
        notice = package.untested()
        return f"ready, version {package.version()}" + (f"; {notice}" if notice else "")

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        from recfx.targets.openvino.converter import Converter

        region = program if isinstance(program, Region) else Region.whole(program)
        converter = Converter(region, dry=True)
        converter.convert()
        refusals = converter.refusals
        return {
            node: Verdict(node not in refusals, refusals.get(node, ""))
            for node in region.graph.nodes
            if node.op not in ("placeholder", "get_attr", "output")
        }

    def lower(self, region: Region) -> Lowered:
        from recfx.targets.openvino.call import region_function
        from recfx.targets.openvino.converter import Converter
        from recfx.targets.openvino.requests import Requests

        converter = Converter(region)
        converter.convert()
        if converter.refusals:
            raise Refused({node.name: reason for node, reason in converter.refusals.items()})
        try:
            converted = converter.finish()
        except RuntimeError as error:
            raise TargetError(
                f"OpenVINO cannot build the region: {str(error).strip()[:300]}",
                hint="give the region to another backend, such as 'eager'",
            ) from error
        requests = None if converted.model is None else Requests(converted.model, "f32")
        if requests is not None:
            slot = requests.take(torch.get_num_threads())
            slot.free.append(slot)
        body = region_function(region, converted, requests)
        operators = sum(is_operator(node) for node in region.graph.nodes if not is_size(node))
        return Lowered(self.name, region, body, operators=operators, sized=frozenset(region.outputs))

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        """The version that lowered the region. The model itself is built again when it is loaded, which takes no longer than reading it:
        the weights are in the saved model already, and OpenVINO compiles in both cases. So no file reaches its reader."""
        return {_FILE: json.dumps({"openvino": self.version(), "precision": "f32"}).encode()}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        try:
            stored = json.loads(bytes(files[_FILE]))
            fits = isinstance(stored, dict) and stored.get("precision") == "f32"
        except (KeyError, ValueError):
            fits = False
        if not fits:
            raise ArtifactError("the file does not describe a region of this backend", where=_FILE)
        return self.lower(region)
