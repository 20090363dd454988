"""Saved models: a folder of JSON and safetensors, versioned, checksummed, memory-mapped, without pickle.

model/
  manifest.json          format, versions, sizes and digests of the other files, the backend of each region, the report
  manifest.sha256        the digest of the manifest
  program.json           the graph and the calling convention
  one-row.json           the same for the plan of one row, if the model has one
  state.safetensors      tables, weights and constants
  constants.safetensors  inputs declared constant, for a refresh
  region-N.FILE          files that the backend of region N saved
  plan-M-region-N.FILE   the same for the other plans, if the model has several

A loaded program runs only operators from a fixed list, on operands whose sizes were checked; see `recfx.ir.rebuild`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recfx.driver.older_formats import UNSEALED, unsealed_notice, upgraded_manifest, upgraded_program
from recfx.driver.output_folder import MANIFEST, require_free
from recfx.driver.parts import Parts
from recfx.driver.placement_report import region_reports
from recfx.driver.recipe import Recipe, load_recipe
from recfx.driver.report import Report
from recfx.driver.saved_plans import PlanReader, save_plans, save_regions
from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.folders import SealedFolder, digest_of_manifest, seal
from recfx.formats.records import decode, fields, require
from recfx.formats.staging import write_folder
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.rebuild import from_json
from recfx.ir.serialize import TensorStore, to_json
from recfx.pipeline import PassRecord
from recfx.version import VERSION

FORMAT = 4
#: The format of models with several plans.
PLANS_FORMAT = 5

#: Formats that are read. Format 3 has one region and only names its backend. For formats 1 and 2 see `older_formats`.
READ = (*UNSEALED, 3, FORMAT, PLANS_FORMAT)
_PROGRAM, _ONE_ROW, _STATE = "program.json", "one-row.json", "state.safetensors"
_COPIED_BYTES = 16 << 20
#: The same for tables of a model that several processes load, to share its memory.
_COPIED_SHARED_BYTES = 1 << 20
_EAGER_LOST = (
    "your own model measured faster than the compiled one when it was optimized, but a saved folder does not hold it: "
    "the compiled model runs"
)


def save(parts: Parts, path: str | PathLike[str], sealed: Callable[[str], None] | None = None) -> str:
    """Writes a saved model. A crash in the middle leaves the former contents.

    Args:
        parts: The compiled model.
        path: The folder.
        sealed: Called with the digest of the new folder before the folder takes its place.

    Returns:
        The digest; see `SealedFolder.digest`.

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
            "regions": save_regions(parts.placed, "region", staging),
            "one_row": save_regions(one_row.placed, "one-row-region", staging) if one_row is not None else [],
            "report": parts.report.to_json(),
            "recipe": parts.recipe.save(staging) if parts.recipe is not None else None,
        }
        if any(each is not None and len(each.plans.placed) > 1 for each in (parts, one_row)):
            plans = {_PROGRAM: save_plans(parts.plans, "plan", staging)}
            if one_row is not None:
                plans[_ONE_ROW] = save_plans(one_row.plans, "one-row-plan", staging)
            manifest |= {"format": PLANS_FORMAT, "plans": plans}
        seal(staging, MANIFEST, manifest)
        digest.append(digest_of_manifest((staging / f"{MANIFEST}.json").read_bytes()))
        if sealed is not None:
            sealed(digest[0])

    digest: list[str] = []
    write_folder(folder, fill)
    return digest[0]


def digest_of(folder: Path) -> str:
    """The digest of a saved folder; see `SealedFolder.digest`.

    Raises:
        ArtifactError: It has no manifest.
    """
    manifest = folder / f"{MANIFEST}.json"
    try:
        return digest_of_manifest(manifest.read_bytes())
    except OSError as error:
        raise ArtifactError(f"no saved model: {error.strerror}", where=str(manifest)) from error


def read(
    path: str | PathLike[str],
    *,
    check: bool = True,
    types: Sequence[type] = (),
    operators: Collection[str] = (),
    mapped: bool = True,
    shared: bool = False,
) -> Parts:
    """Reads what `save` wrote; see `recfx.load`.

    Args:
        path: See `recfx.load`.
        check: Likewise.
        types: Likewise.
        operators: Likewise.
        mapped: Whether large tables stay mapped to the folder. Otherwise they are copied, and the folder may be removed.
        shared: See `recfx.load`.

    Raises:
        ArtifactError: The folder is missing, damaged, cut short, of an unknown format version, or its content is not allowed.
    """
    with SealedFolder(path, MANIFEST, READ, "saved model", check=check, unsealed=UNSEALED) as sealed:
        where = sealed.where(f"{MANIFEST}.json")
        held = upgraded_manifest(sealed.manifest, where) if sealed.format in UNSEALED else sealed.manifest
        more = ("plans",) if sealed.format >= PLANS_FORMAT else ()
        manifest = fields(held, where, ("recfx", "torch", "regions", "one_row", "report", "recipe", *more))
        report: Report = decode(Report, manifest["report"], f"{where}, report")
        tables = _table_names(report) if shared else set[str]()
        held_tensors = sealed.tensors(_STATE).items()
        tensors = {name: _settled(tensor, mapped, shared=name in tables) for name, tensor in held_tensors}
        reader = _Reader(sealed, tensors, types, operators)
        plans = require(dict, manifest.get("plans", {}), f"{where}, plans")
        recipe = load_recipe(manifest["recipe"], sealed)
        parts = reader.parts(_PROGRAM, manifest["regions"], plans.get(_PROGRAM), report, recipe)
        if report.one_row is not None:
            one_row = reader.parts(_ONE_ROW, manifest["one_row"], plans.get(_ONE_ROW), report.one_row)
            _require_same_parameters(parts.program, one_row.program, sealed.where(_ONE_ROW))
            parts = parts.with_one_row(one_row)
        if sealed.format in UNSEALED:
            notice = unsealed_notice(sealed.format)
            parts.report = dataclasses.replace(parts.report, notices=(*parts.report.notices, notice))
            warnings.warn(f"{sealed.path}: {notice}", UserWarning, stacklevel=3)
        parts.digest = sealed.digest
    return parts


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

    def parts(self, file: str, regions: Any, plans: Any, report: Report, recipe: Recipe | None = None) -> Parts:
        """A program on the backends that it was saved for."""
        where = self.folder.where(f"{MANIFEST}.json")
        reader = PlanReader(self.folder)
        saved = reader.saved(regions, plans)
        try:
            program = from_json(self._document(file), self.tensors, types=self.types, operators=self.operators)
        except ArtifactError as error:
            place = f"{self.folder.where(file)}: {error.where}" if error.where else self.folder.where(file)
            raise ArtifactError(error.what, where=place, hint=error.hint) from error
        found, notices = reader.plans(program, saved)
        report = _settled_report(report, where)
        report = dataclasses.replace(report, backend=found.main.backends, notices=(*report.notices, *notices))
        if notices:
            report = dataclasses.replace(report, regions=region_reports(found.main))
        for notice in notices:
            warnings.warn(f"{self.folder.path}: {notice}", UserWarning, stacklevel=4)
        return Parts(found.main, report, recipe=recipe, plans=found)

    def _document(self, file: str) -> Any:
        document = self.folder.json(file)
        if self.folder.format in UNSEALED:
            return upgraded_program(document, self.folder.format, file)
        return document


def _require_same_parameters(program: Program, one_row: Program, where: str) -> None:
    """Checks that both plans take the same parameters: the entry of a model passes its arguments on to the entry for one row."""
    first, second = program.signature, one_row.signature
    if first.parameters != second.parameters or first.keyword_only != second.keyword_only:
        raise ArtifactError("the plan for one row takes other parameters than the model", where=where)


def _settled(tensor: torch.Tensor, mapped: bool, *, shared: bool) -> torch.Tensor:
    """Copies weights to aligned memory, where matrix products give the same bits as before saving. Large tables may stay mapped."""
    return tensor if mapped and tensor.nbytes > (_COPIED_SHARED_BYTES if shared else _COPIED_BYTES) else tensor.clone()


def _table_names(report: Report) -> set[str]:
    """The tensors that are embedding tables."""
    plans = (report,) if report.one_row is None else (report, report.one_row)
    return {record.state for plan in plans for record in plan.tables}


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
