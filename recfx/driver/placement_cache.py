"""The plans that measurements chose for a program, kept in the cache folder: a later `optimize` of the same program measures none again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from recfx.cost.cache_files import cache_folder, file_name, read_document, write_document
from recfx.cost.processor import processor
from recfx.driver.placement_report import PlanTimes
from recfx.driver.plans import Layout
from recfx.errors import ArtifactError
from recfx.formats.records import decode
from recfx.ir.canonical import structure_digest
from recfx.ir.program import Program
from recfx.ir.region import Region, joins_any
from recfx.targets import Backend
from recfx.version import VERSION

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Kept:
    """The outcome of a competition.

    Attributes:
        assignments: See `Layout`; the last plan is the first plan of the competition.
        bounds: Likewise.
        uses: Likewise.
        shown: Likewise.
        times: The plans that competed.
    """

    assignments: tuple[dict[str, str], ...]
    bounds: tuple[int, ...]
    uses: tuple[int, ...]
    shown: int
    times: tuple[PlanTimes, ...]

    @property
    def layout(self) -> Layout:
        """The plans."""
        return Layout(self.assignments, self.bounds, self.uses, self.shown)


class PlacementCache:
    """The file of a program, for the present machine, number of threads, and versions of the backends.

    Args:
        program: The program after all passes.
        backends: The backends that compete.
        sizes: The batch sizes at which plans are compared.
    """

    def __init__(self, program: Program, backends: Sequence[Backend], sizes: Sequence[int]) -> None:
        self.program = program
        self.path = _path(program, backends, sizes)

    def read(self) -> Kept | None:
        """The outcome of an earlier competition; None without one that fits the program."""
        document = read_document(self.path) if self.path is not None else None
        if document is None:
            return None
        try:
            kept: Kept = decode(Kept, document, str(self.path))
        except ArtifactError:
            return None
        return kept if _fits(kept, self.program) else None

    def write(self, layout: Layout, times: tuple[PlanTimes, ...]) -> None:
        """Keeps an outcome."""
        if self.path is not None:
            plain: list[Mapping[str, str]] = [dict(assignment) for assignment in layout.assignments]
            kept = {
                "assignments": plain,
                "bounds": layout.bounds,
                "uses": layout.uses,
                "shown": layout.shown,
                "times": [dataclasses.asdict(each) for each in times],
            }
            write_document(self.path, kept)


def _path(program: Program, backends: Sequence[Backend], sizes: Sequence[int]) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        digest = structure_digest(Region.whole(program))
    except ArtifactError:  # operators without a written form
        return None
    versions = tuple((backend.name, backend.version()) for backend in backends)
    identity = (
        _FORMAT,
        VERSION,
        torch.__version__,
        processor(),
        torch.get_num_threads(),
        versions,
        tuple(sizes),
        digest,
    )
    return folder / file_name("placement", identity)


def _fits(kept: Kept, program: Program) -> bool:
    """Whether every plan names the operators of the program, and the numbers fit each other."""
    names = {n.name for n in program.graph.nodes if n.op == "call_function" and not joins_any(n)}
    plans = len(kept.assignments)
    numbers = 0 <= kept.shown < plans and len(kept.uses) == len(kept.bounds) + 1
    ascending = all(low < high for low, high in zip((0, *kept.bounds), kept.bounds, strict=False))
    named = all(names <= assignment.keys() for assignment in kept.assignments)
    return numbers and ascending and named and all(0 <= use < plans for use in kept.uses)
