"""Folders that a saved model may be written to."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from recfx.errors import ArtifactError

#: The document that marks a folder as a saved model, without its ending.
MANIFEST = "manifest"


def require_output(path: str | PathLike[str]) -> None:
    """Checks that a saved model can be written to a folder.

    Raises:
        ArtifactError: It holds something else, or its parent does not exist or is read-only.
    """
    folder = Path(path)
    require_free(folder)
    parent = folder.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ArtifactError(
            "nothing can be written here",
            where=str(parent),
            hint="make the folder, or choose one that you may write to",
        )


def require_free(folder: Path) -> None:
    """Checks that a folder does not exist, or holds a saved model.

    Raises:
        ArtifactError: It holds something else.
    """
    if folder.exists() and not (folder / f"{MANIFEST}.json").is_file():
        raise ArtifactError(
            "the path exists and is not a saved model of recfx", where=str(folder), hint="choose another path"
        )
