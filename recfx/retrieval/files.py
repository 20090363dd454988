"""Saved indices: a folder of arrays, versioned, checksummed, memory-mapped, without pickle.

index/
  manifest.json   format, versions, options, size and checksum of each array, and a checksum of the manifest itself
  blocks.npy      codes, int32 [blocks, words, 16]
  lower.npy       constants, float32
  step.npy
  dead.npy        which items were deleted, if any were
"""

from __future__ import annotations

import json
import zlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recfx.errors import ArtifactError
from recfx.formats.folders import check_file, checksums, write_folder
from recfx.retrieval.grid import Grid
from recfx.retrieval.packing import words_of
from recfx.retrieval.store import Store
from recfx.targets.native.retrieval import BLOCK

if TYPE_CHECKING:
    from recfx.retrieval.index import Index

FORMAT = 2
_READ = (1, 2)  # the first knew no symmetric rows
_MANIFEST = "manifest.json"


def save(index: Index, path: str | PathLike[str]) -> None:
    """Writes an index; a crash in the middle leaves whatever was there before.

    Raises:
        ArtifactError: `path` exists and is no index.
    """
    from recfx import __version__

    folder = Path(path)
    if folder.exists() and not (folder / _MANIFEST).is_file():
        raise ArtifactError("the path exists and is no index", where=str(folder), hint="choose another path")
    store = index._store
    arrays = {
        "blocks": store.blocks[: -(-store.items // BLOCK)],
        "lower": store.grid.lower,
        "step": store.grid.step,
    } | ({"dead": store.dead} if store.dead is not None else {})

    def fill(staging: Path) -> None:
        for name, tensor in arrays.items():
            np.save(staging / f"{name}.npy", tensor.numpy(), allow_pickle=False)
        manifest = {
            "format": FORMAT,
            "recfx": __version__,
            "items": store.items,
            "dim": index.dim,
            "bits": index.bits,
            "metric": index.metric,
            "query_bits": index.query_bits,
            "scales": store.grid.kind,
            "files": checksums(staging),
        }
        (staging / _MANIFEST).write_text(json.dumps({**manifest, "crc32": _seal(manifest)}, indent=1) + "\n")

    write_folder(folder, fill)


def load(path: str | PathLike[str], *, check: bool = True) -> Index:
    """See `Index.load`."""
    from recfx.retrieval.index import Index

    folder = Path(path)
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        check_file(folder / name, expected, check)
    arrays = {Path(name).stem: _mapped(folder / name) for name in manifest["files"]}
    items, dim, bits = manifest["items"], manifest["dim"], manifest["bits"]
    # Kernels read what these say is there.
    lower, step = {
        "table": ((), ()),
        "row": ((items,), (items,)),
        "symmetric": ((), (items,)),
        "dimension": ((dim,), (dim,)),
    }[manifest["scales"]]
    expected_shapes = {
        "blocks": (-(-items // BLOCK), words_of(dim, bits), BLOCK),
        "lower": lower,
        "step": step,
    }
    for name, shape in expected_shapes.items():
        if name not in arrays or tuple(arrays[name].shape) != shape:
            raise ArtifactError(f"{name}.npy does not hold {list(shape)}", where=str(folder))
    dead = arrays.get("dead")
    if dead is not None and len(dead) * 64 < items:
        raise ArtifactError("dead.npy is too short", where=str(folder))
    if dead is not None:
        # Room for more items is not saved.
        dead = dead[: -(-len(arrays["blocks"]) * BLOCK // 64)].clone()
    grid = Grid(arrays["lower"], arrays["step"], manifest["scales"])
    store = Store(arrays["blocks"], items, grid, dim, dead, mapped=True)
    return Index(store, bits, manifest["metric"], manifest["query_bits"])


def _mapped(file: Path) -> Tensor:
    """An array whose pages are read when touched, and copied when written."""
    try:
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"the array cannot be read: {error}", where=str(file)) from error
    return torch.from_numpy(np.asarray(array))


def _seal(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _read_manifest(folder: Path) -> dict[str, Any]:
    where = str(folder / _MANIFEST)
    try:
        manifest: Any = json.loads((folder / _MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            "there is no saved index here", where=str(folder), hint="pass the folder given to Index.save"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest is damaged: {error}", where=where) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in _READ:
        raise ArtifactError(
            f"the index is of format {found!r}, this recfx reads format 1 and {FORMAT}",
            where=where,
            hint="build and save the index again with this version",
        )
    sealed = manifest.pop("crc32", None)
    if sealed != _seal(manifest):
        raise ArtifactError("the manifest's checksum is wrong: it was damaged", where=where)
    checked: dict[str, Any] = manifest
    return checked
