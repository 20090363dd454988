"""Saving and loading compiled models."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from artifact_kit import rewrite_manifest
from models import TinyCtr, tiny_inputs

import recfx
from recfx.driver import artifact
from recfx.driver.parts import Parts


@pytest.fixture(scope="module")
def fast() -> recfx.CompiledModel:
    return recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)


@pytest.fixture
def saved(fast: recfx.CompiledModel, tmp_path: Path) -> Path:
    fast.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("batch", [1, 7])
def test_round_trip_keeps_every_bit(fast: recfx.CompiledModel, saved: Path, batch: int) -> None:
    again = recfx.load(saved)
    inputs = tiny_inputs(batch)
    assert torch.equal(again(*inputs), fast(*inputs))
    assert again.report == fast.report
    assert again.placement == fast.placement


def test_tied_tables_are_stored_once(fast: recfx.CompiledModel, saved: Path) -> None:
    document = json.loads((saved / "program.json").read_text())
    stored = {entry["dense"] for entry in document["state"].values()}
    assert len(stored) <= len(document["state"])
    assert (saved / "state.safetensors").stat().st_size < fast.program.state_bytes() + 4096


def test_no_pickle_inside(saved: Path) -> None:
    names = {file.suffix for file in saved.rglob("*") if file.is_file()}
    assert names == {".json", ".safetensors", ".sha256"}


def test_loads_in_a_fresh_process_without_the_model_class(
    fast: recfx.CompiledModel, saved: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    dense, sparse = tiny_inputs(5)
    save_file({"dense": dense, "sparse": sparse, "want": fast(dense, sparse)}, tmp_path / "case.safetensors")
    script = (
        "import sys, torch, recfx\n"
        "from safetensors.torch import load_file\n"
        "case = load_file(sys.argv[2])\n"
        "torch.set_num_threads(1)\n"
        "got = recfx.load(sys.argv[1])(case['dense'], case['sparse'])\n"
        "assert torch.equal(got, case['want']), (got, case['want'])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(saved), str(tmp_path / "case.safetensors")], check=True)


def test_saving_again_replaces_an_artifact_but_nothing_else(fast: recfx.CompiledModel, tmp_path: Path) -> None:
    fast.save(tmp_path / "model")
    fast.save(tmp_path / "model")
    assert recfx.load(tmp_path / "model")(*tiny_inputs(2)).shape == (2,)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    with pytest.raises(recfx.ArtifactError, match="not a saved model"):
        fast.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "model"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(recfx.ArtifactError, match="no saved model"):
        recfx.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["program.json", "state.safetensors"])
def test_a_flipped_byte_is_found(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(recfx.ArtifactError, match="checksum"):
        recfx.load(saved)


@pytest.mark.parametrize("name", ["program.json", "state.safetensors"])
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_file_cut_short_is_found(saved: Path, name: str, keep: int) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:keep])
    with pytest.raises(recfx.ArtifactError, match="bytes instead of"):
        recfx.load(saved, check=False)


def test_missing_file_and_damaged_manifest(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "state.safetensors").unlink()
    with pytest.raises(recfx.ArtifactError, match="missing"):
        recfx.load(tmp_path / "copy")
    (saved / "manifest.json").write_text("{")
    with pytest.raises(recfx.ArtifactError, match="damaged"):
        recfx.load(saved)


def test_another_format_version_is_refused(saved: Path) -> None:
    rewrite_manifest(saved, lambda manifest: manifest | {"format": 999})
    with pytest.raises(recfx.ArtifactError, match="format 999"):
        recfx.load(saved)


@pytest.mark.parametrize("number", [0, 6])
def test_a_folder_of_a_format_that_is_not_read_says_how_to_mend_it(tmp_path: Path, number: int) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": number, "files": {}, "regions": [], "report": {}}))
    message = rf"format {number}, this recfx reads format 1, 2, 3, 4 and 5[\s\S]*save it again"
    with pytest.raises(recfx.ArtifactError, match=message):
        recfx.load(tmp_path)


def test_a_loaded_model_says_what_runs_when_the_users_own_was_kept(tmp_path: Path) -> None:
    """The user's model is not part of the folder."""
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)
    parts = fast.parts
    kept = dataclasses.replace(parts.report, kept_eager=True)
    recfx.CompiledModel(Parts(parts.placed, kept, parts.run, parts.recipe)).save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    assert "your own model runs" not in str(again.report)
    assert "a saved folder does not hold it: the compiled model runs" in str(again.report)
    assert torch.equal(again(*tiny_inputs(3)), fast(*tiny_inputs(3)))


def test_a_saved_model_can_be_read_by_others(saved: Path) -> None:
    before = os.umask(0)
    os.umask(before)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~before
    assert {file.stat().st_mode & 0o777 for file in saved.iterdir()} == {0o666 & ~before}


def test_uninitialised_memory_is_saved_as_zeros(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.empty(0, 3), x]) + x.new_empty(1, 3).mul(0).nan_to_num()

    fast = recfx.optimize(Model().eval(), example_inputs=(torch.rand(4, 3),), pipeline="", measure=False, verify="off")
    fast.save(tmp_path / "model")
    targets = [node.get("target") for node in json.loads((tmp_path / "model" / "program.json").read_text())["nodes"]]
    assert not any("empty" in str(target) for target in targets)
    x = torch.rand(2, 3)
    assert torch.equal(recfx.load(tmp_path / "model")(x), x)


def test_tables_of_medium_size_are_shared_where_that_is_asked_for(tmp_path: Path) -> None:
    """They stay mapped to the file; dense weights of the same size are copied."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(9000, 64)
            self.head = torch.nn.Linear(64, 9000, bias=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.table(ids))
            return found

    ids = torch.tensor([0, 8999, 5])
    recfx.optimize(Model().eval(), example_inputs=(ids,), measure=False).save(tmp_path / "model")
    own, shared = recfx.load(tmp_path / "model"), recfx.load(tmp_path / "model", shared=True)
    assert torch.equal(own(ids), shared(ids))
    assert not _mapped(own, tmp_path)
    assert _mapped(shared, tmp_path) == ["table.weight"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact, "_COPIED_BYTES", 1 << 20)
        assert _mapped(recfx.load(tmp_path / "model"), tmp_path) == ["head.weight", "table.weight"]


def _mapped(model: recfx.CompiledModel, folder: Path) -> list[str]:
    """The weights that are in memory of a file."""
    files = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in files]
    weights = model.state_dict().items()
    return sorted(name for name, w in weights if any(low <= w.data_ptr() < high for low, high in ranges))
