"""The eager backend."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.program import Program
from recfx.ir.provenance import where
from recfx.ir.region import Region
from recfx.targets.base import Backend, Lowered, Verdict, is_operator
from recfx.targets.eager.lookups import with_plain_lookups

#: The reason for operators that torch runs because the user asked for this backend.
TORCH_ITSELF = "this backend is torch"


class EagerBackend(Backend):
    """Runs any program torch can run, without the user's Python: the fallback of all other backends, and the reference for their speed."""

    name: ClassVar[str] = "eager"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})

    def unavailable(self) -> str | None:
        return None

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        nodes = [node for node in program.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        return {node: self._verdict(node) for node in nodes}

    def _verdict(self, node: fx.Node) -> Verdict:
        if node.op != "call_function":
            return Verdict(False, f"{node.op} is not part of the dialect")
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return Verdict(False, f"the higher-order operator {node.target} needs its sub-graphs as modules")
        return Verdict(True)

    def lower(self, region: Region) -> Lowered:
        for node, verdict in self.supports(region).items():
            if not verdict:
                raise TargetError(
                    f"the eager backend cannot run {node}: {verdict.reason}",
                    where=where(node),
                    hint="replace the operator in the model by one of torch",
                )
        left = tuple((str(node.target), TORCH_ITSELF) for node in region.graph.nodes if is_operator(node))
        return Lowered(self.name, region, with_plain_lookups(region), left, len(left))
