"""Saved indices: a folder of arrays, versioned, checksummed, memory-mapped, without pickle.

index/
  manifest.json         format, versions, options, size and digest of the arrays
  manifest.sha256       the digest of the manifest
  arrays.safetensors    blocks: codes, int32 [blocks, words, 16]; lower and step: constants, float32; dead: bits of deleted items
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from recfx.errors import ArtifactError, InputError
from recfx.formats.folders import SealedFolder, seal
from recfx.formats.records import decode
from recfx.formats.staging import write_folder
from recfx.kernels.searches import BLOCK
from recfx.retrieval.grid import Grid, Kind
from recfx.retrieval.item_ids import ItemIds
from recfx.retrieval.options import Form, Metric, checked_options, checked_size
from recfx.retrieval.packing import words_of
from recfx.retrieval.store import Store
from recfx.version import VERSION

FORMAT = 3
_NAME, _ARRAYS = "manifest", "arrays.safetensors"


@dataclass(frozen=True)
class Manifest:
    """The entries of an index in a manifest."""

    recfx: str
    items: int
    dim: int
    bits: int
    metric: Metric
    query_bits: int
    scales: Kind


def save(form: Form, store: Store, ids: ItemIds, path: str | PathLike[str]) -> None:
    """Writes an index; a crash in the middle leaves the earlier contents intact.

    Raises:
        ArtifactError: `path` exists and is not an index.
    """
    folder = Path(path)
    if folder.exists() and not (folder / f"{_NAME}.json").is_file():
        raise ArtifactError("the path exists and is not an index", where=str(folder), hint="choose another path")
    arrays, manifest = arrays_of(store, ids), manifest_of(form, store)

    def fill(staging: Path) -> None:
        save_file({name: tensor.contiguous().clone() for name, tensor in arrays.items()}, staging / _ARRAYS)
        seal(staging, _NAME, {"format": FORMAT, **asdict(manifest)})

    write_folder(folder, fill)


def load(path: str | PathLike[str], *, check: bool = True) -> tuple[Form, Store, ItemIds]:
    """Reads an index; see `Index.load`."""
    with SealedFolder(path, _NAME, [FORMAT], "saved index", check=check) as sealed:
        where = sealed.where(f"{_NAME}.json")
        manifest: Manifest = decode(Manifest, sealed.manifest, where)
        arrays = sealed.tensors(_ARRAYS)
    return opened(manifest, arrays, where, sealed.where(_ARRAYS))


def manifest_of(form: Form, store: Store) -> Manifest:
    """The entries of an index in a manifest."""
    return Manifest(VERSION, store.items, form.dim, form.bits, form.metric, form.query_bits, store.grid.kind)


def arrays_of(store: Store, ids: ItemIds) -> dict[str, Tensor]:
    """The arrays of an index in its file."""
    arrays = {"blocks": store.blocks[: -(-store.items // BLOCK)], "lower": store.grid.lower, "step": store.grid.step}
    optional = {"dead": store.dead, "ids": ids.own}
    return {**arrays, **{name: array for name, array in optional.items() if array is not None}}


def opened(manifest: Manifest, arrays: dict[str, Tensor], where: str, file: str) -> tuple[Form, Store, ItemIds]:
    """The index of a manifest and of arrays that are mapped to a file.

    Args:
        manifest: What `manifest_of` gave.
        arrays: What `arrays_of` gave.
        where: The manifest, for errors.
        file: The file of the arrays, for errors.

    Raises:
        ArtifactError: The options contradict each other, or the arrays contradict them.
    """
    _check_options(manifest, where)
    _check_arrays(manifest, arrays, file)
    dead = arrays.get("dead")
    if dead is not None:
        # The reserved room for more items is not saved.
        dead = dead[: -(-len(arrays["blocks"]) * BLOCK // 64)].clone()
    grid = Grid(arrays["lower"], arrays["step"], manifest.scales)
    store = Store(arrays["blocks"], manifest.items, grid, manifest.dim, dead, mapped=True)
    try:
        ids = ItemIds.of(arrays.get("ids"), manifest.items)
    except InputError as error:
        raise ArtifactError(f"the ids of the items are wrong: {error.what}", where=file) from error
    return Form(manifest.dim, manifest.bits, manifest.metric, manifest.query_bits), store, ids


def _check_options(manifest: Manifest, where: str) -> None:
    """Refuses options that an index cannot have."""
    if manifest.items < 0 or manifest.dim < 1:
        raise ArtifactError(f"an index of {manifest.items} items of {manifest.dim} codes", where=where)
    try:
        checked_size(manifest.items, manifest.dim)
        checked_options(manifest.bits, manifest.metric, manifest.scales, manifest.query_bits)
    except InputError as error:
        raise ArtifactError(f"the options contradict each other: {error.what}", where=where) from error


def _check_arrays(manifest: Manifest, arrays: dict[str, Tensor], where: str) -> None:
    """Refuses arrays whose sizes or dtypes contradict the options, because kernels rely on the options."""
    items, dim = manifest.items, manifest.dim
    lower, step = {
        "table": ((), ()),
        "row": ((items,), (items,)),
        "symmetric": ((), (items,)),
        "dimension": ((dim,), (dim,)),
    }[manifest.scales]
    expected = {
        "blocks": (torch.int32, (-(-items // BLOCK), words_of(dim, manifest.bits), BLOCK)),
        "lower": (torch.float32, lower),
        "step": (torch.float32, step),
    }
    for name, (dtype, shape) in expected.items():
        held = arrays.get(name)
        if held is None or held.dtype is not dtype or tuple(held.shape) != shape:
            raise ArtifactError(f"{name} is not {dtype} {list(shape)}", where=where)
    if unknown := arrays.keys() - {*expected, "dead", "ids"}:
        raise ArtifactError(f"the array {sorted(unknown)[0][:100]!r} is not known", where=where)
    ids = arrays.get("ids")
    if ids is not None and (ids.dtype is not torch.int64 or tuple(ids.shape) != (items,)):
        raise ArtifactError("ids are not an int64 for each item", where=where)
    dead = arrays.get("dead")
    if dead is not None and (dead.dtype is not torch.int64 or dead.ndim != 1 or len(dead) * 64 < items):
        raise ArtifactError("dead is not a bit for each item, in int64", where=where)
