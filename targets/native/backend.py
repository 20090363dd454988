"""The native backend: kernels for recommendation models in one shared library. One call runs a whole region."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx

from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.kernels import huge_pages
from recfx.kernels.library import level, library, missing
from recfx.targets.base import Backend, Lowered, Verdict
from recfx.targets.native.fixed_shapes import with_free_batch
from recfx.targets.native.partition import refusals
from recfx.targets.native.region_plan import RegionPlan
from recfx.targets.native.rules.registry import RULES
from recfx.targets.native.weights import DryPacker, Packer
from recfx.version import VERSION


class NativeBackend(Backend):
    """Runs a region as one plan of its kernels."""

    name: ClassVar[str] = "native"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return missing()

    def version(self) -> str:
        """With the instruction-set level, since each has speeds of its own."""
        return f"{VERSION}, {level()}" if missing() is None else VERSION

    def state(self) -> str:
        pages = huge_pages.unavailable()
        large = f"large pages for large tables: {pages}" if pages else "large tables go to large pages"
        return f"ready, kernels for {level()} (this processor runs {', '.join(library().levels)}); {large}"

    def kernels(self) -> frozenset[str]:
        return frozenset(str(target.name()) for target in RULES if isinstance(target, torch._ops.OpOverload))

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        region = program if isinstance(program, Region) else Region.whole(program)
        freed = with_free_batch(region)
        found = refusals(freed, DryPacker(library(), level()))
        reasons = {node.name: reason for node, reason in found.items()}
        return {
            node: Verdict(node.name not in reasons, reasons.get(node.name, ""))
            for node in region.graph.nodes
            if node.op not in ("placeholder", "get_attr", "output")
        }

    def lower(self, region: Region) -> Lowered:
        packer = region.shared.setdefault(f"{self.name} {level()}", Packer(library(), level()))
        tables = len(packer.tables)
        lowered = RegionPlan(with_free_batch(region), packer, library(), level()).lower(self.name)
        if len(packer.tables) > tables:
            huge_pages.move_tables(list(packer.tables.values()))
        return dataclasses.replace(lowered, region=region)
