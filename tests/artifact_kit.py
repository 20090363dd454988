"""Changes saved folders like an attacker: makes a change, and updates the digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "manifest") -> None:
    """Applies `change` to the manifest, and updates its digest."""
    write_manifest(folder, change(json.loads((folder / f"{name}.json").read_text())), name)


def write_manifest(folder: Path, document: Any, name: str = "manifest") -> None:
    """Writes a manifest, or another text in its place, with its digest."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (folder / f"{name}.json").write_bytes(data)
    (folder / f"{name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {name}.json\n")


def replace_file(folder: Path, file: str, data: bytes, name: str = "manifest") -> None:
    """Replaces a file and its entry in the manifest."""
    (folder / file).write_bytes(data)

    def change(manifest: dict[str, Any]) -> dict[str, Any]:
        manifest["files"][file] = {"bytes": len(data), "sha256": [hashlib.sha256(data).hexdigest()]}
        return manifest

    rewrite_manifest(folder, change, name)


def rewrite_program(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Applies `change` to the program."""
    document = change(json.loads((folder / "program.json").read_text()))
    replace_file(folder, "program.json", json.dumps(document).encode())
