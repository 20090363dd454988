"""Changes saved folders the way somebody would who means harm: the change, and digests that fit it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "manifest") -> None:
    """Replaces the manifest by what `change` makes of it, and its digest by the right one."""
    write_manifest(folder, change(json.loads((folder / f"{name}.json").read_text())), name)


def write_manifest(folder: Path, document: Any, name: str = "manifest") -> None:
    """Writes a manifest, or any text in place of one, with its digest."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (folder / f"{name}.json").write_bytes(data)
    (folder / f"{name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {name}.json\n")


def replace_file(folder: Path, file: str, data: bytes, name: str = "manifest") -> None:
    """Replaces a file and what the manifest says of it."""
    (folder / file).write_bytes(data)

    def change(manifest: dict[str, Any]) -> dict[str, Any]:
        manifest["files"][file] = {"bytes": len(data), "sha256": [hashlib.sha256(data).hexdigest()]}
        return manifest

    rewrite_manifest(folder, change, name)


def rewrite_program(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replaces the program by what `change` makes of it."""
    document = change(json.loads((folder / "program.json").read_text()))
    replace_file(folder, "program.json", json.dumps(document).encode())
