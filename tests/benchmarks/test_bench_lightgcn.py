"""The LightGCN run: it learns, and continues from a checkpoint bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.lightgcn import Training, options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two groups of users, each with a group of items; one item of each user is held out."""
    generator = torch.Generator().manual_seed(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(40):
        items = (torch.randperm(15, generator=generator)[:8] + 15 * (user % 2)).tolist()
        lines["train"].append(" ".join(map(str, [user, *items[:6]])))
        lines["test"].append(" ".join(map(str, [user, *items[6:]])))
    for name, rows in lines.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
    return tmp_path


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Training:
    how = ["--data", str(folder), "--batch", "64", "--dim", "8", "--lr", "0.02", "--every", "10", *arguments]
    monkeypatch.setattr(sys, "argv", ["lightgcn", *how])
    training = Training(options())
    training.run()
    return training


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("extra", [[], ["--joint", "--negatives", "3", "--cosine", "--average", "0.5"]])
def test_it_learns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, extra: list[str]
) -> None:
    train(monkeypatch, folder, "--epochs", "30", "--out", str(folder / "out"), *extra)
    lines = lines_of(capsys)
    assert lines[-1]["recall@20"] > 0.9  # nine items of the own group remain to rank first
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {name: tuple(t.shape) for name, t in load_file(folder / "out").items()} == {
        "users": (40, 8),
        "items": (30, 8),
    }


def test_it_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    whole = train(monkeypatch, folder, "--epochs", "20", "--average", "0.9")
    state = ["--state", str(folder / "state")]
    train(monkeypatch, folder, "--epochs", "10", "--average", "0.9", *state)
    rest = train(monkeypatch, folder, "--epochs", "20", "--average", "0.9", *state)
    assert rest.step == whole.step
    for mine, its in zip(rest.embeddings(), whole.embeddings(), strict=True):
        assert torch.equal(mine, its)
