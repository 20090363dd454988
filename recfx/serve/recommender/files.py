"""Saved recommenders: a folder with both models, the index, and the inputs of items.

shop/
  recommender.json      format, version, options, the digests of the parts below, size and digest of the inputs of items
  recommender.sha256    the digest of the manifest
  items.safetensors     the inputs of items, [items, ...] each
  query.recfx/          the saved model of queries
  ranking.recfx/        the saved ranking model
  index/                the saved index
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from recfx.compiled import CompiledModel
from recfx.compiled import load as load_model
from recfx.errors import ArtifactError, InputError, TargetError
from recfx.formats.folders import SealedFolder, digest_of_manifest, seal
from recfx.formats.records import decode
from recfx.formats.staging import write_folder
from recfx.retrieval.index import Index
from recfx.retrieval.two_stage import TwoStageIndex
from recfx.serve.recommender.catalogue import AnyIndex
from recfx.version import VERSION

FORMAT = 1
_NAME, _ITEMS = "recommender", "items.safetensors"
_QUERY, _RANKING, _INDEX = "query.recfx", "ranking.recfx", "index"

Kind = Literal["one-stage", "two-stage"]


@dataclasses.dataclass(frozen=True)
class Options:
    """The numbers of a recommender; see `Recommender`."""

    k: int
    candidates: int
    score: str | None


@dataclasses.dataclass(frozen=True)
class Content:
    """What a recommender is made of.

    Attributes:
        query: The model of queries.
        index: The index.
        ranking: The ranking model.
        inputs: The inputs of items, [items, ...].
        options: Its numbers.
    """

    query: CompiledModel
    index: AnyIndex
    ranking: CompiledModel
    inputs: Mapping[str, Tensor]
    options: Options


@dataclasses.dataclass(frozen=True)
class _Manifest:
    recfx: str
    options: Options
    index: Kind
    parts: dict[str, str]


def is_recommender(folder: Path) -> bool:
    """Whether a folder holds a recommender, and not a model."""
    return (folder / f"{_NAME}.json").is_file()


def save(content: Content, path: str | PathLike[str], sealed: Callable[[str], None] | None = None) -> str:
    """Writes a recommender; a crash in the middle leaves the earlier contents.

    Args:
        content: Its parts.
        path: The folder.
        sealed: Called with the digest of the new folder before the folder takes its place.

    Returns:
        The digest; see `SealedFolder.digest`.

    Raises:
        ArtifactError: `path` exists and is not a recommender, or a part cannot be written.
    """
    folder = Path(path)
    if folder.exists() and not is_recommender(folder):
        raise ArtifactError("the path exists and is not a recommender", where=str(folder), hint="choose another path")
    digest = ""

    def fill(staging: Path) -> None:
        nonlocal digest
        content.query.save(staging / _QUERY)
        content.ranking.save(staging / _RANKING)
        content.index.save(staging / _INDEX)
        kind: Kind = "two-stage" if isinstance(content.index, TwoStageIndex) else "one-stage"
        parts = {_QUERY: content.query.digest, _RANKING: content.ranking.digest}
        parts[_INDEX] = _digest(staging / _INDEX, _manifest_of(kind))
        save_file({name: value.contiguous().clone() for name, value in content.inputs.items()}, staging / _ITEMS)
        manifest = _Manifest(VERSION, content.options, kind, parts)
        seal(staging, _NAME, {"format": FORMAT, **dataclasses.asdict(manifest)}, without=parts)
        digest = digest_of(staging)
        if sealed is not None:
            sealed(digest)

    write_folder(folder, fill)
    return digest


def load(path: str | PathLike[str], *, check: bool = True) -> tuple[Content, str]:
    """Reads a recommender and its digest; see `Recommender.load`."""
    with SealedFolder(path, _NAME, [FORMAT], "saved recommender", check=check) as sealed:
        manifest: _Manifest = decode(_Manifest, sealed.manifest, sealed.where(f"{_NAME}.json"))
        inputs = {name: torch.empty_like(value).copy_(value) for name, value in sealed.tensors(_ITEMS).items()}
        digest = sealed.digest
    folder = Path(path)
    names = {_QUERY: "manifest", _RANKING: "manifest", _INDEX: _manifest_of(manifest.index)}
    for part, name in names.items():
        if _digest(folder / part, name) != manifest.parts.get(part):
            raise ArtifactError("the part is not the one that was saved with the others", where=str(folder / part))
    index: AnyIndex
    index = (
        TwoStageIndex.load(folder / _INDEX, check=check)
        if manifest.index == "two-stage"
        else Index.load(folder / _INDEX, check=check)
    )
    models = [load_model(folder / part, check=check) for part in (_QUERY, _RANKING)]
    return Content(models[0], index, models[1], inputs, manifest.options), digest


@contextlib.contextmanager
def fitting(path: str | PathLike[str]) -> Iterator[None]:
    """A context in which parts that do not fit each other are a damaged folder."""
    try:
        yield
    except (InputError, TargetError) as error:
        raise ArtifactError(f"the parts do not fit each other: {error.what}", where=str(path)) from error


def digest_of(folder: Path) -> str:
    """The digest of a saved recommender; see `SealedFolder.digest`.

    Raises:
        ArtifactError: It has no manifest.
    """
    return _digest(folder, _NAME)


def _manifest_of(kind: Kind) -> str:
    return "two-stage" if kind == "two-stage" else "manifest"


def _digest(folder: Path, name: str) -> str:
    manifest = folder / f"{name}.json"
    try:
        return digest_of_manifest(manifest.read_bytes())
    except OSError as error:
        raise ArtifactError(f"a part is missing: {error.strerror}", where=str(manifest)) from error
