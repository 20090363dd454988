"""The native backend: recommendation kernels in one shared library, whole regions in one call."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import fx

from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.kernels import huge_pages
from recfx.kernels.library import level, library, missing
from recfx.runtime.flat import flat_function
from recfx.targets.base import Backend, Lowered, Verdict, is_operator
from recfx.targets.eager import EagerBackend
from recfx.targets.eager.lookups import with_plain_lookups
from recfx.targets.native.fixed_shapes import with_free_batch
from recfx.targets.native.partition import Partitioner
from recfx.targets.native.rules.registry import RULES


class NativeBackend(Backend):
    """Runs what it has kernels for in plans of its own, and the rest with torch."""

    name: ClassVar[str] = "native"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return missing()

    def state(self) -> str:
        pages = huge_pages.unavailable()
        large = f"large pages for large tables: {pages}" if pages else "large tables go to large pages"
        return f"ready, kernels for {level()} (this processor runs {', '.join(library().levels)}); {large}"

    def kernels(self) -> frozenset[str]:
        return frozenset(str(target.name()) for target in RULES if isinstance(target, torch._ops.OpOverload))

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        return EagerBackend().supports(program)

    def lower(self, region: Region) -> Lowered:
        partitioner = Partitioner(with_free_batch(region), library(), level())
        partition = partitioner.run()
        huge_pages.move_tables(partitioner.tables)
        operators = sum(map(is_operator, region.graph.nodes))
        graph = with_plain_lookups(partition.region)
        return Lowered(self.name, region, flat_function(graph), partition.left, operators, graph)
