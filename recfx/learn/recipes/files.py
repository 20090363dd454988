"""JSON files of results: written atomically, with an error that names a damaged file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from recfx.errors import ArtifactError
from recfx.formats import strict_json


def write_json(file: Path, document: Any) -> None:
    """Writes JSON so that a crash leaves the old content or the new."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, file)


def read_json(file: Path) -> Any:
    """Reads JSON.

    Raises:
        ArtifactError: The file does not hold JSON.
    """
    try:
        return strict_json.parse(file.read_bytes(), str(file))
    except ArtifactError as error:
        raise ArtifactError(f"a result: {error.what}", where=str(file), hint="delete it to run it again") from error
