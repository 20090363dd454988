"""Copies of mapped tensors share the pages of their file; copies of others have memory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recfx.formats.folders import SealedFolder, seal
from recfx.kernels import private_copies
from recfx.kernels.private_copies import private_copy


def _mapped(folder: Path, table: torch.Tensor) -> torch.Tensor:
    folder.mkdir()
    save_file({"before": torch.arange(5), "table": table}, folder / "state.safetensors")
    seal(folder, "manifest", {"format": 1})
    with SealedFolder(folder, "manifest", (1,), "saved model") as sealed:
        return sealed.tensors("state.safetensors")["table"]


def _private_kilobytes(tensor: torch.Tensor) -> int:
    """Memory of a tensor's pages that belongs to this process alone, and is not that of the file."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            first, _, last = line.split()[0].partition("-")
            inside = int(first, 16) <= tensor.data_ptr() < int(last, 16)
        elif inside and line.startswith("Private_Dirty:"):
            found += int(line.split()[1])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_a_mapped_tensor_is_mapped_again(tmp_path: Path, dtype: torch.dtype) -> None:
    table = torch.arange(40_000).reshape(10_000, 4).to(dtype)
    held = _mapped(tmp_path / "model", table)
    copy = private_copy(held)
    assert copy.data_ptr() != held.data_ptr()
    assert torch.equal(copy, table)
    assert _private_kilobytes(copy) == 0
    copy[9_999] = 7
    assert torch.equal(held, table)
    assert 0 < _private_kilobytes(copy) <= 8
    assert torch.equal(_mapped(tmp_path / "other", table), table)


def test_other_memory_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(100, 3)
    for tensor in (table, torch.empty(0, 3), table.to(torch.float64)):
        copy = private_copy(tensor)
        assert torch.equal(copy, tensor)
        copy.fill_(1)
    held = _mapped(tmp_path / "model", table)
    (tmp_path / "model" / "state.safetensors").unlink()  # the file is gone, its mapping is not
    copy = private_copy(held)
    assert torch.equal(copy, table)
    (tmp_path / "model" / "state.safetensors").write_bytes(b"\0" * 10_000)  # another file at its place
    assert torch.equal(private_copy(held), table)
    monkeypatch.setattr(private_copies, "_MAPS", tmp_path / "none")  # as on other systems than Linux
    assert torch.equal(private_copy(_mapped(tmp_path / "again", table)), table)
