"""Checkpoints survive a round trip exactly, and damage is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recfx.errors import ArtifactError
from recfx.learn.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint


def _save(folder: Path, steps: int = 3, value: float = 0.1) -> None:
    shared = torch.arange(6.0).view(2, 3)
    parts = {
        "state": {"a": shared, "b": shared[0], "flag": torch.tensor(True), "rng": torch.arange(5, dtype=torch.uint8)},
        "best": {"a": shared * value},
    }
    save_checkpoint(folder, steps, parts, {"x": value, "list": [1, None, "y"]})


def test_round_trip(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path / "run")
    _save(tmp_path / "run", value=1 / 3)
    assert has_checkpoint(tmp_path / "run")
    parts, values = load_checkpoint(tmp_path / "run")
    assert values == {"x": 1 / 3, "list": [1, None, "y"]}
    assert torch.equal(parts["state"]["b"], torch.arange(3.0))
    assert bool(parts["state"]["flag"])
    assert parts["state"]["rng"].dtype == torch.uint8
    assert torch.equal(parts["best"]["a"], torch.arange(6.0).view(2, 3) * (1 / 3))


def test_a_later_one_replaces_it(tmp_path: Path) -> None:
    _save(tmp_path, 3, 0.1)
    _save(tmp_path, 3, 0.2)
    _save(tmp_path, 9, 0.3)
    assert load_checkpoint(tmp_path)[1]["x"] == 0.3
    assert len(list(tmp_path.iterdir())) == 3


def test_a_crash_in_the_middle_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 3, 0.1)

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    for step in ("recfx.learn.checkpoint.save_file", "recfx.learn.checkpoint.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(OSError, match="no space"):
                _save(tmp_path, 4, 0.2)
        assert load_checkpoint(tmp_path)[1]["x"] == 0.1


def test_damage_is_found(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no checkpoint"):
        load_checkpoint(tmp_path)
    _save(tmp_path)
    state = next(tmp_path.glob("state-*"))
    whole = state.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        state.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"damaged|bytes instead of"):
            load_checkpoint(tmp_path)
    state.rename(tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="regular files only"):
        load_checkpoint(tmp_path)
    state.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_checkpoint(tmp_path)
    for text in (
        "{",
        "[]",
        '{"format": 99}',
        '{"format": 1, "files": {}}',
        '{"sha256": "0", "content": {}}',
        '{"a": 1, "a": 1}',
    ):
        (tmp_path / "checkpoint.json").write_text(text)
        with pytest.raises(ArtifactError):
            load_checkpoint(tmp_path)


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"state": {}}, {"losses": [float("inf"), 1.0], "score": {"nan": float("nan")}})
    _, values = load_checkpoint(tmp_path)
    assert values["losses"] == [float("inf"), 1.0]
    assert values["score"]["nan"] != values["score"]["nan"]
