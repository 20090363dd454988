"""Saved models: a folder of JSON and safetensors, versioned, checksummed, memory-mapped, without pickle.

model/
  manifest.json        format, versions, checksums of the other files, which backend has which region
  program.json         the graph and the calling convention
  one-row.json         the same of the plan for a batch of one row, of a model that has one
  state.safetensors    tables, weights and constants
  constants.safetensors  inputs declared constant, for a refresh
  region-0/            what a backend saved for itself, if anything
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recfx.compiled import CompiledModel, Parts
from recfx.errors import ArtifactError
from recfx.formats.folders import check_file, checksums, write_folder
from recfx.ir.program import Program
from recfx.ir.serialize import TensorStore, from_json, to_json
from recfx.pipeline import MissRecord, PassRecord
from recfx.refresh import load_recipe
from recfx.report import Measured, Report
from recfx.targets import BACKENDS, Lowered

FORMAT = 2
_MANIFEST = "manifest.json"
_REGIONS = {"program": "region", "one-row": "one-row-region"}
_COPIED_BYTES = 16 << 20


def save(parts: Parts, path: str | PathLike[str]) -> None:
    """Writes an artifact; a crash in the middle leaves whatever was there before.

    Raises:
        ArtifactError: `path` exists and is no artifact, or the program has no plain form.
    """
    folder = Path(path)
    if folder.exists() and not (folder / _MANIFEST).is_file():
        raise ArtifactError("the path exists and is no recfx artifact", where=str(folder), hint="choose another path")
    store = TensorStore()
    plans = [(stem, plan, to_json(plan.program, store)[0]) for stem, plan in _plans(parts)]

    def fill(staging: Path) -> None:
        for stem, plan, document in plans:
            (staging / f"{stem}.json").write_text(json.dumps(document))
            for index, region in enumerate(plan.regions):
                (staging / f"{_REGIONS[stem]}-{index}").mkdir()
                BACKENDS[region.backend].save(region, staging / f"{_REGIONS[stem]}-{index}")
        save_file(store.tensors, staging / "state.safetensors")
        _write_manifest(staging, parts)

    write_folder(folder, fill)


def load(path: str | PathLike[str], *, check: bool = True) -> CompiledModel:
    """Loads a saved model; its large tables are memory-mapped.

    Args:
        path: The folder `CompiledModel.save` wrote.
        check: Compare checksums of every file, the tables included (about a second for every few gigabytes).

    Raises:
        ArtifactError: It is not there, damaged, cut short, or of another format version.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        check_file(folder / name, expected, check)
    try:
        tensors = load_file(folder / "state.safetensors")
    except SafetensorError as error:
        raise ArtifactError(f"the tensors cannot be read: {error}", where=str(folder / "state.safetensors")) from error
    tensors = {name: _settled(tensor) for name, tensor in tensors.items()}
    report, recipe = _decode_report(manifest["report"]), load_recipe(manifest.get("recipe"), folder)
    program, regions = _load_plan(folder, "program", manifest["regions"], tensors)
    parts = Parts(program, regions, report, recipe=recipe)
    if report.one_row is not None:
        program, regions = _load_plan(folder, "one-row", manifest["one_row"], tensors)
        parts = parts.with_one_row(Parts(program, regions, report.one_row))
    return CompiledModel(parts)


def _plans(parts: Parts) -> list[tuple[str, Parts]]:
    return [("program", parts), *([("one-row", parts.one_row)] if parts.one_row is not None else [])]


def _load_plan(
    folder: Path, stem: str, backends: Sequence[str], tensors: dict[str, torch.Tensor]
) -> tuple[Program, list[Lowered]]:
    program = from_json(json.loads((folder / f"{stem}.json").read_text()), tensors)
    regions = []
    for index, name in enumerate(backends):
        if name not in BACKENDS:
            raise ArtifactError(f"the artifact needs the backend {name!r}, unknown here", where=str(folder))
        regions.append(BACKENDS[name].load(program, folder / f"{_REGIONS[stem]}-{index}"))
    return program, regions


def _settled(tensor: torch.Tensor) -> torch.Tensor:
    """Weights are copied to aligned memory, where matrix products keep the bits they had; large tables stay mapped."""
    return tensor.clone() if tensor.numel() * tensor.element_size() <= _COPIED_BYTES else tensor


def _write_manifest(folder: Path, parts: Parts) -> None:
    from recfx import __version__

    recipe = parts.recipe.save(folder) if parts.recipe is not None else None
    one_row = parts.one_row.regions if parts.one_row is not None else ()
    manifest = {
        "format": FORMAT,
        "recfx": __version__,
        "torch": torch.__version__,
        "files": checksums(folder),
        "regions": [region.backend for region in parts.regions],
        "one_row": [region.backend for region in one_row],
        "report": parts.report.to_json(),
        "recipe": recipe,
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError as error:
        raise ArtifactError(
            "there is no saved model here", where=str(folder), hint="pass the folder given to CompiledModel.save"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest is damaged: {error}", where=str(folder / _MANIFEST)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ArtifactError(
            f"the artifact is of format {found!r}, this recfx reads format {FORMAT}",
            where=str(folder),
            hint="optimize and save the model again with this version",
        )
    missing = {"files", "regions", "report"} - manifest.keys()
    if missing:
        raise ArtifactError(f"the manifest lacks {', '.join(sorted(missing))}", where=str(folder / _MANIFEST))
    return manifest


def _decode_report(document: dict[str, Any]) -> Report:
    def tuples(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    passes = tuple(
        PassRecord(**{**{k: tuples(v) for k, v in p.items()}, "misses": tuple(MissRecord(**m) for m in p["misses"])})
        for p in document["passes"]
    )
    measured = tuple(Measured(**{k: tuples(v) for k, v in m.items()}) for m in document["measured"])
    one_row = _decode_report(document["one_row"]) if document.get("one_row") is not None else None
    plain = {k: tuples(v) for k, v in document.items() if k not in ("passes", "measured", "one_row")}
    return Report(**plain, passes=passes, measured=measured, one_row=one_row)
