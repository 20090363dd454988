"""Saved indices of two stages: a folder as that of an index, with the rows of the second stage beside the codes of the first.

index/
  two-stage.json        format, versions, options of both stages, size and digest of the arrays
  two-stage.sha256      the digest of the manifest
  arrays.safetensors    those of an index (see `recfx.retrieval.files`), with the caller's ids if there are any; rows, [n, d];
                        row_lower and row_step, float32 [n], of 8-bit rows
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from recfx.errors import ArtifactError
from recfx.formats.folders import SealedFolder, seal
from recfx.formats.records import decode
from recfx.formats.staging import write_folder
from recfx.retrieval.bound import Reach
from recfx.retrieval.files import Manifest, arrays_of, manifest_of, opened
from recfx.retrieval.grid import Grid
from recfx.retrieval.index import Index
from recfx.retrieval.item_ids import ItemIds
from recfx.retrieval.rescoring import DTYPES, Rescore, Rows

FORMAT = 1
_NAME, _ARRAYS = "two-stage", "arrays.safetensors"
_ROWS = ("rows", "row_lower", "row_step")


@dataclass(frozen=True)
class Saved:
    """The content of a saved index.

    Attributes:
        first: The first stage, which numbers items by their positions.
        rows: The rows of the second stage.
        ids: The caller's ids.
        reach: What the bound depends on.
        shortlist: The length that was calibrated.
    """

    first: Index
    rows: Rows
    ids: ItemIds
    reach: Reach
    shortlist: int | None


@dataclass(frozen=True)
class _Manifest:
    first: Manifest
    rescore: Rescore
    shortlist: int | None
    error: float
    longest: float


def save(saved: Saved, path: str | PathLike[str]) -> None:
    """Writes an index of two stages; a crash in the middle leaves the earlier contents intact.

    Raises:
        ArtifactError: `path` exists and is not such an index.
    """
    folder = Path(path)
    if folder.exists() and not (folder / f"{_NAME}.json").is_file():
        raise ArtifactError(
            "the path exists and is not an index of two stages", where=str(folder), hint="choose another path"
        )
    arrays = {**arrays_of(saved.first._store, saved.ids), "rows": saved.rows.values}
    if (affine := saved.rows.affine) is not None:
        arrays |= {"row_lower": affine.lower, "row_step": affine.step}
    first = manifest_of(saved.first._form, saved.first._store)
    manifest = _Manifest(first, saved.rows.kind, saved.shortlist, *saved.reach)

    def fill(staging: Path) -> None:
        save_file({name: tensor.contiguous().clone() for name, tensor in arrays.items()}, staging / _ARRAYS)
        seal(staging, _NAME, {"format": FORMAT, **asdict(manifest)})

    write_folder(folder, fill)


def load(path: str | PathLike[str], *, check: bool = True) -> Saved:
    """Reads an index of two stages; see `TwoStageIndex.load`."""
    with SealedFolder(path, _NAME, [FORMAT], "saved index of two stages", check=check) as sealed:
        where, file = sealed.where(f"{_NAME}.json"), sealed.where(_ARRAYS)
        manifest: _Manifest = decode(_Manifest, sealed.manifest, where)
        arrays = sealed.tensors(_ARRAYS)
    form, store, ids = opened(manifest.first, {n: a for n, a in arrays.items() if n not in _ROWS}, where, file)
    numbers = (manifest.error, manifest.longest)
    fits = all(math.isfinite(x) and x >= 0 for x in numbers) and (manifest.shortlist is None or manifest.shortlist > 0)
    if not fits or form.metric == "hamming":
        raise ArtifactError("the options of the two stages contradict each other", where=where)
    rows = _rows(
        manifest.rescore, {name: arrays[name] for name in _ROWS if name in arrays}, store.items, form.dim, file
    )
    first = Index(store, form.bits, form.metric, form.query_bits)
    return Saved(first, rows, ids, Reach(*numbers), manifest.shortlist)


def _rows(kind: Rescore, arrays: dict[str, Tensor], items: int, dim: int, where: str) -> Rows:
    """The rows of the second stage, whose sizes and dtypes the kernels rely on."""
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"rows": (DTYPES[kind], (items, dim))}
    if kind == "int8":
        expected |= dict.fromkeys(("row_lower", "row_step"), (torch.float32, (items,)))
    if arrays.keys() != expected.keys():
        raise ArtifactError(f"rows of {kind} are not the arrays {sorted(arrays)}", where=where)
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype is not dtype or tuple(arrays[name].shape) != shape:
            raise ArtifactError(f"{name} is not {dtype} {list(shape)}", where=where)
    affine = Grid(arrays["row_lower"], arrays["row_step"], "row") if kind == "int8" else None
    return Rows(arrays["rows"], affine, mapped=True)
