"""The program that TensorRT gets for a region: operators of the dialect and bags decomposed, ids with 32 bits, free sizes with bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.region import Region
from recfx.targets.exported import Exported, Size, export
from recfx.targets.id_checks import moves_integers
from recfx.targets.region_sizes import is_size
from recfx.targets.tensorrt.bags import gather_bags
from recfx.targets.tensorrt.lookups import IdCheck

#: Sizes of the batch: the smallest, the one for which TensorRT chooses its kernels, and the largest. An engine reserves memory for the
#: largest size; torch runs larger batches.
BATCH = (1, 256, 8192)
#: Likewise for other free dimensions, such as the length of a history.
OTHER = (1, 64, 512)


@dataclasses.dataclass(frozen=True)
class HandedOver:
    """A region for TensorRT.

    Attributes:
        exported: The program. Its inputs that hold only ids are int32.
        narrowed: Indices of the region's inputs that become int32.
        check: Checks the ids of a call.
        batch: The dimension of the batch; "" without.
    """

    exported: Exported
    narrowed: frozenset[int]
    check: IdCheck
    batch: str

    @property
    def input_names(self) -> list[str]:
        """The names of the program's inputs, which become those of the engine."""
        return list(self.exported.program.graph_signature.user_inputs)

    @property
    def output_names(self) -> list[str]:
        """The names that torch-tensorrt gives to the results of an engine."""
        return [f"output{at}" for at in range(len(self.exported.results))]

    def bounds(self, dimension: str) -> tuple[int, int, int]:
        """The smallest, the usual and the largest size of a free dimension."""
        return BATCH if dimension == self.batch else OTHER

    def profiles(self) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """For each input of the program its smallest, its usual and its largest sizes."""
        found = []
        for shape in self.exported.shapes:
            low, usual, high = (tuple(self._at(size, which) for size in shape) for which in range(3))
            found.append((low, usual, high))
        return found

    def dtypes(self) -> list[torch.dtype]:
        """The types of the program's inputs."""
        nodes = {node.name: node for node in self.exported.program.graph.find_nodes(op="placeholder")}
        return [nodes[name].meta["val"].dtype for name in self.input_names]

    def _at(self, size: Size, which: int) -> int:
        if isinstance(size, int):
            return size
        dimension, factor, base = size
        return factor * self.bounds(dimension)[which] + base


def hand_over(region: Region) -> HandedOver:
    """Prepares a region whose operators are all supported.

    Raises:
        TargetError: torch cannot export the region.
    """
    batch = "" if region.batch is None else str(region.batch)
    narrowed: set[int] = set()
    exported = export(
        region,
        prepare=lambda copied: narrowed.update(_prepare(copied)),
        largest=lambda dimension: (BATCH if dimension == batch else OTHER)[2],
    )
    return HandedOver(exported, frozenset(narrowed), IdCheck.of(region), batch)


def _prepare(region: Region) -> list[int]:
    """Rewrites bags and gives inputs of ids 32 bits, in place; returns the indices of these inputs."""
    gather_bags(region)
    found = []
    for at, node in enumerate(region.placeholders()):
        held = node.meta["val"]
        if isinstance(held, torch.Tensor) and held.dtype is torch.int64 and _holds_ids(node):
            node.meta["val"] = held.to(torch.int32)
            found.append(at)
    return found


def _holds_ids(node: fx.Node) -> bool:
    """Whether an input is used, and only as ids of lookups."""
    left, seen, looked_up = [node], set[fx.Node](), False
    while left:
        source = left.pop()
        for user in source.users:
            if user in seen or is_size(user):
                continue
            seen.add(user)
            if _reads_ids(user, source):
                looked_up = True
            elif user.op == "call_function" and moves_integers(user):
                left.append(user)
            else:
                return False
    return looked_up


def _reads_ids(user: fx.Node, source: fx.Node) -> bool:
    embedding: Any = torch.ops.aten.embedding.default
    return user.target is embedding and user.args[1] is source and user.args[0] is not source
