"""Malicious saved tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_kit import replace_file, rewrite_program
from hostile_kit import edit

import recfx


def test_a_sparse_tensor_with_indices_outside_is_refused(saved: Path) -> None:
    from safetensors.torch import load_file, save

    tensors = load_file(saved / "state.safetensors")
    tensors |= {"far.indices": torch.tensor([[0, 1 << 40], [0, 0]]), "far.values": torch.ones(2)}
    replace_file(saved, "state.safetensors", save(tensors))
    rewrite_program(saved, edit(lambda d: d["state"], "far", {"coo": ["far.indices", "far.values"], "size": [2, 2]}))
    with pytest.raises(recfx.ArtifactError, match="sparse"):
        recfx.load(saved)


def header_of(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        (1 << 63).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{}",
        header_of({"a": F32}),
        header_of({"a": F32}) + b"\0" * 16,
        header_of({"a": F32, "b": F32}) + b"\0" * 8,
        header_of({"a": {**F32, "data_offsets": [8, 16]}}) + b"\0" * 16,
        header_of({"a": {**F32, "data_offsets": [8, 0]}}) + b"\0" * 8,
        header_of({"a": {**F32, "shape": [3]}}) + b"\0" * 8,
        header_of({"a": {**F32, "shape": [-2]}}) + b"\0" * 8,
        header_of({"a": {**F32, "shape": [0, 1 << 62]}}) + b"\0" * 8,
        header_of({"a": {**F32, "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        header_of({"a": {**F32, "shape": [True, 2]}}) + b"\0" * 8,
        header_of({"a": {**F32, "dtype": "F31"}}) + b"\0" * 8,
        header_of({"a": {**F32, "more": 1}}) + b"\0" * 8,
        header_of({"a": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}) + b"\2" * 8,
        header_of({"b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {**F32, "data_offsets": [1, 9]}})
        + b"\0" * 9,
        header_of({"__metadata__": {"a": 1}, "a": F32}) + b"\0" * 8,
        header_of([]) + b"",  # type: ignore[arg-type]
    ],
)
def test_damaged_tensor_files_are_refused(saved: Path, data: bytes) -> None:
    replace_file(saved, "state.safetensors", data)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)
