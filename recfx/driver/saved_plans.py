"""The plans and regions of a saved model: which backend runs which operators, and the files of the backends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recfx.driver.lowering import lower
from recfx.driver.placed import Placed, lower_regions
from recfx.driver.plans import Plans, described
from recfx.errors import ArtifactError, RecfxError, TargetError
from recfx.formats.folders import SealedFolder
from recfx.formats.records import decode
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region, Split, grouped, split
from recfx.targets import BACKENDS, Lowered, Refused, missing

_MANIFEST = "manifest.json"
_MOST_REGIONS = 1000
_MOST_PLANS = 100


@dataclasses.dataclass(frozen=True)
class SavedRegion:
    """The entry of a region in the manifest.

    Attributes:
        backend: The name of its backend.
        operators: Names of its operators in the order of the program; empty if the region is the whole program.
        files: Names of the files that its backend saved.
    """

    backend: str
    operators: tuple[str, ...]
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SavedPlans:
    """The entry of the plans of a program in the manifest.

    Attributes:
        others: The regions of every plan but the shown one, in the order of `Plans.placed`.
        bounds: See `Plans`.
        uses: Likewise.
        shown: Likewise.
    """

    others: tuple[tuple[SavedRegion, ...], ...]
    bounds: tuple[int, ...] = ()
    uses: tuple[int, ...] = (0,)
    shown: int = 0

    def check(self, where: str) -> None:
        """Checks that the numbers fit each other.

        Raises:
            ArtifactError: They do not.
        """
        plans = len(self.others) + 1
        fits = plans <= _MOST_PLANS and 0 <= self.shown < plans and len(self.uses) == len(self.bounds) + 1
        ascending = all(low < high for low, high in zip((0, *self.bounds), self.bounds, strict=False))
        if not (fits and ascending and all(0 <= use < plans for use in self.uses)):
            raise ArtifactError("the numbers of the plans and of their batch sizes do not fit each other", where=where)


def save_plans(plans: Plans, prefix: str, folder: Path) -> dict[str, Any]:
    """Writes the files of every plan but the shown one, and returns the entry of the plans in the manifest."""
    others = [
        save_regions(placed, f"{prefix}-{index}-region", folder)
        for index, placed in enumerate(plans.placed)
        if index != plans.shown
    ]
    return {"others": others, "bounds": plans.bounds, "uses": plans.uses, "shown": plans.shown}


def save_regions(placed: Placed, prefix: str, folder: Path) -> list[dict[str, Any]]:
    """Writes the files that the backends save, and returns the entries of the regions in the manifest."""
    saved = []
    for index, region in enumerate(placed.regions):
        if region.backend not in BACKENDS:
            raise ArtifactError(
                f"region {index} runs on the backend {region.backend!r}, which is not registered",
                hint="add it to recfx.targets.BACKENDS before saving and loading",
            )
        files = {f"{prefix}-{index}.{name}": data for name, data in BACKENDS[region.backend].save(region).items()}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        members = placed.split.members(index) if len(placed.regions) > 1 else []
        saved.append(dataclasses.asdict(SavedRegion(region.backend, tuple(members), tuple(files))))
    return saved


@dataclasses.dataclass(frozen=True)
class PlanReader:
    """Reads the plans of a saved model.

    Attributes:
        folder: The folder of the saved model.
    """

    folder: SealedFolder

    def saved(self, regions: Any, plans: Any) -> tuple[list[list[SavedRegion]], SavedPlans]:
        """The regions of every plan, and the entry of the plans; None stands for a model with one plan.

        Raises:
            ArtifactError: The entries are damaged.
        """
        where = self.folder.where(_MANIFEST)
        shown = self._regions(regions, f"{where}, regions")
        held: SavedPlans = SavedPlans(()) if plans is None else decode(SavedPlans, plans, f"{where}, plans")
        held.check(f"{where}, plans")
        found = [_counted(list(each), f"{where}, plans") for each in held.others]
        return [*found[: held.shown], shown, *found[held.shown :]], held

    def plans(
        self, program: Program, saved: tuple[list[list[SavedRegion]], SavedPlans]
    ) -> tuple[Plans, tuple[str, ...]]:
        """The plans as they were saved, and a notice for each plan that cannot run here.

        The plan after a plan that cannot run here takes its place.

        Raises:
            ArtifactError: No plan can run here, or a plan is not one of the program.
        """
        where = f"{self.folder.where(_MANIFEST)}, regions"
        regions, held = saved
        lacking = [self._missing(plan) for plan in regions]
        if (lacks := lacking[-1]) is not None and all(lacking):
            raise ArtifactError(
                f"the saved model needs the backend {lacks[0]!r}, which cannot run here",
                where=str(self.folder.path),
                hint=lacks[1],
            )
        kept = [index for index, lacks in enumerate(lacking) if lacks is None]
        instead = {index: kept.index(next((k for k in kept if k >= index), kept[-1])) for index in range(len(regions))}
        placed = tuple(self._placed(_split(program, regions[index], where), regions[index]) for index in kept)
        notices = tuple(
            f"the {name} backend cannot run here, so the plan on {described(placed[instead[index]])} takes the place of its plan: {hint}"
            for index, lacks in enumerate(lacking)
            if lacks is not None
            for name, hint in [lacks]
        )
        uses = tuple(instead[use] for use in held.uses)
        return Plans(placed, held.bounds, uses, instead[held.shown]), notices

    def _missing(self, plan: Sequence[SavedRegion]) -> tuple[str, str] | None:
        """The first backend of a plan that cannot run here, and the next step; None if all can.

        Raises:
            ArtifactError: A backend is not registered.
        """
        for region in plan:
            if region.backend not in BACKENDS:
                raise ArtifactError(
                    f"the saved model needs the backend {region.backend[:100]!r}, which is not registered",
                    where=str(self.folder.path),
                    hint="add it to recfx.targets.BACKENDS before loading",
                )
            if hint := missing(region.backend):
                return region.backend, hint
        return None

    def _placed(self, found: Split, saved: Sequence[SavedRegion]) -> Placed:
        """The regions as they were saved, or new regions if a backend now refuses some operators of one.

        Older versions saved one region of the native backend, in which torch ran some operators.
        """
        try:
            return Placed.of(found, lower_regions(found, lambda index, region: self._load(region, saved[index])))
        except Refused:
            backends = [BACKENDS[name] for name in dict.fromkeys(found.backends)]
            operators = {name: backend for index, backend in enumerate(found.backends) for name in found.members(index)}
        with self._blamed(" and ".join(backend.name for backend in backends)):
            return lower(found.program, backends, (), Exactness.EXACT, operators)[0]

    def _regions(self, document: Any, where: str) -> list[SavedRegion]:
        if self.folder.format <= 3:
            saved = [SavedRegion(name, (), ()) for name in decode(list[str], document, where)]
        else:
            saved = decode(list[SavedRegion], document, where)
        if self.folder.format <= 3 and len(saved) != 1:
            raise ArtifactError(f"{len(saved)} regions", where=where)
        return _counted(saved, where)

    def _load(self, region: Region, saved: SavedRegion) -> Lowered:
        """A region on the backend that it was saved for."""
        name = saved.backend
        files = {file.partition(".")[2]: self.folder.data(file) for file in saved.files}
        with self._blamed(name):
            return BACKENDS[name].load(region, files)

    @contextmanager
    def _blamed(self, name: str) -> Iterator[None]:
        """Turns errors of a backend, except `Refused`, into an ArtifactError that names it."""
        where = str(self.folder.path)
        try:
            yield
        except Refused:
            raise
        except RecfxError as error:
            raise ArtifactError(
                f"the {name} backend refuses the program: {error.what}",
                where=f"{where}: {error.where}" if error.where else where,
                hint=error.hint,
            ) from error
        except Exception as error:  # a rule met a graph that capture never makes: the file is at fault, not the caller
            raise ArtifactError(
                f"the {name} backend cannot take the program: {type(error).__name__}: {str(error)[:200]}",
                where=where,
                hint="optimize and save the model again with this version",
            ) from error


def _counted(saved: list[SavedRegion], where: str) -> list[SavedRegion]:
    """The regions of a plan, whose number is checked."""
    if not 1 <= len(saved) <= _MOST_REGIONS:
        raise ArtifactError(f"{len(saved)} regions", where=where)
    return saved


def _split(program: Program, saved: Sequence[SavedRegion], where: str) -> Split:
    """The program as the regions that were saved."""
    if len(saved) == 1:
        return Split(program, (Region.whole(program),), (saved[0].backend,))
    backends = {name: region.backend for region in saved for name in region.operators}
    assignment = {node: backends[node.name] for node in program.graph.nodes if node.name in backends}
    try:
        groups = grouped(program, assignment)
    except TargetError as error:
        raise ArtifactError("the regions do not hold all operators", where=where) from error
    found = [(backend, tuple(node.name for node in members)) for backend, members in groups]
    if found != [(region.backend, region.operators) for region in saved]:
        raise ArtifactError("the regions are not those of the program", where=where)
    return split(program, assignment)
