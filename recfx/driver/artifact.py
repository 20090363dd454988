"""Saved models: a folder of JSON and safetensors, versioned, checksummed, memory-mapped, without pickle.

model/
  manifest.json          format, versions, sizes and digests of the other files, the backend of each region, the report
  manifest.sha256        the digest of the manifest
  program.json           the graph and the calling convention
  one-row.json           the same for the plan of one row, if the model has one
  state.safetensors      tables, weights and constants
  constants.safetensors  inputs declared constant, for a refresh
  region-N.FILE          files that the backend of region N saved

A loaded program runs only operators from a fixed list, on operands whose sizes were checked; see `recfx.ir.rebuild`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recfx.driver.lowering import lower
from recfx.driver.older_formats import UNSEALED, unsealed_notice, upgraded_manifest, upgraded_program
from recfx.driver.output_folder import MANIFEST, require_free
from recfx.driver.parts import Parts
from recfx.driver.placed import Placed, lower_regions
from recfx.driver.recipe import Recipe, load_recipe
from recfx.driver.report import Report
from recfx.errors import ArtifactError, RecfxError, TargetError
from recfx.formats import strict_json
from recfx.formats.folders import SealedFolder, seal
from recfx.formats.records import decode, fields
from recfx.formats.staging import write_folder
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.rebuild import from_json
from recfx.ir.region import Region, Split, grouped, split
from recfx.ir.serialize import TensorStore, to_json
from recfx.pipeline import PassRecord
from recfx.targets import BACKENDS, Lowered, Refused
from recfx.version import VERSION

FORMAT = 4

#: Formats that are read. Format 3 has one region and only names its backend. For formats 1 and 2 see `older_formats`.
READ = (*UNSEALED, 3, FORMAT)
_PROGRAM, _ONE_ROW, _STATE = "program.json", "one-row.json", "state.safetensors"
_COPIED_BYTES = 16 << 20
_MOST_REGIONS = 1000
_EAGER_LOST = (
    "your own model measured faster than the compiled one when it was optimized, but a saved folder does not hold it: "
    "the compiled model runs"
)


def save(parts: Parts, path: str | PathLike[str]) -> None:
    """Writes a saved model. A crash in the middle leaves the former contents.

    Raises:
        ArtifactError: `path` exists and is not a saved model, the program cannot be written as JSON, or a backend is not registered.
    """
    folder = Path(path)
    require_free(folder)
    store = TensorStore()
    one_row = parts.one_row
    documents = {_PROGRAM: to_json(parts.program, store)[0]}
    if one_row is not None:
        documents[_ONE_ROW] = to_json(one_row.program, store)[0]

    def fill(staging: Path) -> None:
        for name, document in documents.items():
            (staging / name).write_bytes(strict_json.dump(document))
        save_file(store.tensors, staging / _STATE)
        manifest = {
            "format": FORMAT,
            "recfx": VERSION,
            "torch": torch.__version__,
            "regions": _save_regions(parts.placed, "region", staging),
            "one_row": _save_regions(one_row.placed, "one-row-region", staging) if one_row is not None else [],
            "report": parts.report.to_json(),
            "recipe": parts.recipe.save(staging) if parts.recipe is not None else None,
        }
        seal(staging, MANIFEST, manifest)

    write_folder(folder, fill)


def read(
    path: str | PathLike[str],
    *,
    check: bool = True,
    types: Sequence[type] = (),
    operators: Collection[str] = (),
    mapped: bool = True,
) -> Parts:
    """Reads what `save` wrote; see `recfx.load`.

    Args:
        path: See `recfx.load`.
        check: Likewise.
        types: Likewise.
        operators: Likewise.
        mapped: Whether large tables stay mapped to the folder. Otherwise they are copied, and the folder may be removed.

    Raises:
        ArtifactError: The folder is missing, damaged, cut short, of an unknown format version, or its content is not allowed.
    """
    with SealedFolder(path, MANIFEST, READ, "saved model", check=check, unsealed=UNSEALED) as sealed:
        where = sealed.where(f"{MANIFEST}.json")
        held = upgraded_manifest(sealed.manifest, where) if sealed.format in UNSEALED else sealed.manifest
        manifest = fields(held, where, ("recfx", "torch", "regions", "one_row", "report", "recipe"))
        report: Report = decode(Report, manifest["report"], f"{where}, report")
        tensors = {name: _settled(tensor, mapped) for name, tensor in sealed.tensors(_STATE).items()}
        reader = _Reader(sealed, tensors, types, operators)
        parts = reader.parts(_PROGRAM, manifest["regions"], report, load_recipe(manifest["recipe"], sealed))
        if report.one_row is not None:
            one_row = reader.parts(_ONE_ROW, manifest["one_row"], report.one_row)
            _require_same_parameters(parts.program, one_row.program, sealed.where(_ONE_ROW))
            parts = parts.with_one_row(one_row)
        if sealed.format in UNSEALED:
            notice = unsealed_notice(sealed.format)
            parts.report = dataclasses.replace(parts.report, notices=(*parts.report.notices, notice))
            warnings.warn(f"{sealed.path}: {notice}", UserWarning, stacklevel=3)
    return parts


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
class _Reader:
    """Reads the plans of a saved model.

    Attributes:
        folder: The folder of the saved model.
        tensors: Its state.
        types: See `recfx.load`.
        operators: Likewise.
    """

    folder: SealedFolder
    tensors: dict[str, torch.Tensor]
    types: Sequence[type]
    operators: Collection[str]

    def parts(self, file: str, regions: Any, report: Report, recipe: Recipe | None = None) -> Parts:
        """A plan: its program, on the backends that it was saved for."""
        where = self.folder.where(f"{MANIFEST}.json")
        saved = self._regions(regions, f"{where}, regions")
        try:
            program = from_json(self._document(file), self.tensors, types=self.types, operators=self.operators)
        except ArtifactError as error:
            place = f"{self.folder.where(file)}: {error.where}" if error.where else self.folder.where(file)
            raise ArtifactError(error.what, where=place, hint=error.hint) from error
        placed = self._placed(_split(program, saved, f"{where}, regions"), saved)
        report = dataclasses.replace(_settled_report(report, where), backend=placed.backends)
        return Parts(placed, report, recipe=recipe)

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

    def _document(self, file: str) -> Any:
        document = self.folder.json(file)
        if self.folder.format in UNSEALED:
            return upgraded_program(document, self.folder.format, file)
        return document

    def _regions(self, document: Any, where: str) -> list[SavedRegion]:
        if self.folder.format <= 3:
            saved = [SavedRegion(name, (), ()) for name in decode(list[str], document, where)]
        else:
            saved = decode(list[SavedRegion], document, where)
        if not 1 <= len(saved) <= _MOST_REGIONS or (self.folder.format <= 3 and len(saved) != 1):
            raise ArtifactError(f"{len(saved)} regions", where=where)
        return saved

    def _load(self, region: Region, saved: SavedRegion) -> Lowered:
        """A region on the backend that it was saved for."""
        where, name = str(self.folder.path), saved.backend
        if name not in BACKENDS:
            raise ArtifactError(
                f"the saved model needs the backend {name[:100]!r}, which is not registered",
                where=where,
                hint="add it to recfx.targets.BACKENDS before loading",
            )
        if missing := BACKENDS[name].unavailable():
            raise ArtifactError(
                f"the saved model needs the backend {name!r}, which cannot run here", where=where, hint=missing
            )
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


def _save_regions(placed: Placed, prefix: str, folder: Path) -> list[dict[str, Any]]:
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


def _require_same_parameters(program: Program, one_row: Program, where: str) -> None:
    """Checks that both plans take the same parameters: the entry of a model passes its arguments on to the entry for one row."""
    first, second = program.signature, one_row.signature
    if first.parameters != second.parameters or first.keyword_only != second.keyword_only:
        raise ArtifactError("the plan for one row takes other parameters than the model", where=where)


def _settled(tensor: torch.Tensor, mapped: bool) -> torch.Tensor:
    """Copies weights to aligned memory, where matrix products give the same bits as before saving. Large tables may stay mapped."""
    return tensor if mapped and tensor.numel() * tensor.element_size() > _COPIED_BYTES else tensor.clone()


def _settled_report(report: Report, where: str) -> Report:
    """The report of a plan that runs without the user's model."""
    for record in report.passes:
        _require_exactness(record, f"{where}, report")
    if not report.kept_eager:
        return report
    return dataclasses.replace(report, kept_eager=False, notices=(*report.notices, _EAGER_LOST))


def _require_exactness(record: PassRecord, where: str) -> None:
    if record.exactness not in {exactness.value for exactness in Exactness}:
        raise ArtifactError(f"{record.exactness[:100]!r} is not an exactness", where=where)
