"""Malicious saved folders: the manifest, its text, and files that are not regular."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from artifact_kit import rewrite_manifest, write_manifest
from hostile_kit import Change, edit
from models import tiny_inputs

import recfx


@pytest.mark.parametrize(
    "change",
    [
        edit(lambda m: m, "files", {}),
        edit(lambda m: m, "files", []),
        edit(lambda m: m, "files", None),
        edit(lambda m: m["files"]["program.json"], "sha256", []),
        edit(lambda m: m["files"]["program.json"], "sha256", ["0" * 64]),
        edit(lambda m: m["files"]["program.json"], "sha256", ["x"]),
        edit(lambda m: m["files"]["program.json"], "sha256", None),
        edit(lambda m: m["files"]["program.json"], "bytes", 1 << 62),
        edit(lambda m: m["files"]["program.json"], "bytes", -1),
        edit(lambda m: m["files"]["program.json"], "bytes", True),
        edit(lambda m: m["files"], "../secret", {"bytes": 1, "sha256": ["0" * 64]}),
        edit(lambda m: m["files"], "/etc/passwd", {"bytes": 1, "sha256": ["0" * 64]}),
        edit(lambda m: m["files"], "manifest.json", {"bytes": 1, "sha256": ["0" * 64]}),
        edit(lambda m: m, "regions", []),
        edit(lambda m: m, "regions", ["native"] * 1000),
        edit(lambda m: m, "regions", ["os.system"]),
        edit(lambda m: m, "regions", [0]),
        edit(lambda m: m, "report", {}),
        edit(lambda m: m["report"], "passes", 3),
        edit(lambda m: m["report"]["passes"][0], "exactness", "none"),
        edit(lambda m: m["report"]["passes"][0], "fired", "many"),
        edit(lambda m: m["report"]["passes"][0], "misses", [{}]),
        edit(lambda m: m["report"], "notices", ["\u001b[2J"]),
        edit(lambda m: m, "recipe", {}),
        edit(lambda m: m["recipe"], "pipeline", "no-such-pass"),
        edit(lambda m: m["recipe"], "pipeline", "{" * 10_000),
        edit(lambda m: m["recipe"]["requests"], "debug", "/tmp"),
        edit(lambda m: m["recipe"], "constants", ["x"]),
        edit(lambda m: m["recipe"], "max_batch", -1),
        edit(lambda m: m, "surplus", 1),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved: Path, change: Change) -> None:
    rewrite_manifest(saved, change)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"format": 3, "format": 3}',
        b'{"format": NaN}',
        b'{"format": 1e999}',
        b'{"format": 3e0}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format": 3, "a": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"format": 3, "a": "\\ud800"}',
    ],
)
def test_text_that_is_not_plain_json_is_refused(saved: Path, text: bytes) -> None:
    write_manifest(saved, text)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)
    assert not any(name.startswith("recfx-harm") for name in os.listdir("/tmp"))


def test_the_manifest_is_sealed(saved: Path) -> None:
    data = (saved / "manifest.json").read_bytes()
    (saved / "manifest.json").write_bytes(data.replace(b'"reassoc"', b'"exact"', 1))
    with pytest.raises(recfx.ArtifactError, match="manifest's checksum"):
        recfx.load(saved)
    (saved / "manifest.json").write_bytes(data)
    (saved / "manifest.sha256").unlink()
    with pytest.raises(recfx.ArtifactError, match=r"manifest.sha256 is missing"):
        recfx.load(saved)


def make_link(folder: Path, file: str) -> None:
    outside = folder.parent / "outside"
    (folder / file).rename(outside)
    (folder / file).symlink_to(outside)


def make_fifo(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)


def make_folder(folder: Path, file: str) -> None:
    (folder / file).unlink()
    (folder / file).mkdir()


@pytest.mark.parametrize("make", [make_link, make_fifo, make_folder])
@pytest.mark.parametrize("file", ["manifest.json", "manifest.sha256", "program.json", "state.safetensors"])
def test_only_regular_files_are_opened(saved: Path, make: Callable[[Path, str], None], file: str) -> None:
    make(saved, file)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


def test_a_folder_may_itself_be_reached_through_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(saved)
    assert recfx.load(tmp_path / "current")(*tiny_inputs(2)).shape == (2,)
