"""Without Ray, the error names the package and how to install it; options that do not fit are refused before."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from engine_kit import compiled

import recfx.serve.ray
from recfx.cli import main
from recfx.errors import TargetError


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(name) if "." in name else ImportError
        return find(name, *rest)

    monkeypatch.setattr("recfx.serve.packages._found", lambda name: name.split(".")[0] != "ray")


@pytest.mark.usefixtures("without")
def test_the_error_says_how_to_install_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TargetError, match="not installed: ray") as caught:
        recfx.serve.ray.deployment  # noqa: B018 - the import is the test
    assert caught.value.hint == 'pip install "recfx[ray]"'
    with pytest.raises(AttributeError, match="nix"):
        recfx.serve.ray.nix  # noqa: B018
    compiled().save(tmp_path / "tiny.recfx")
    assert main(["serve", str(tmp_path / "tiny.recfx"), "--engine", "ray"]) == 1
    assert 'pip install "recfx[ray]"' in capsys.readouterr().err


def test_options_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled().save(tmp_path / "tiny.recfx")
    assert main(["serve", str(tmp_path / "tiny.recfx"), "--engine", "ray", "--workers", "2"]) == 1
    assert "does not go with --engine ray" in capsys.readouterr().err
    for wrong in ("0", "3:2", "x", "1:"):
        with pytest.raises(SystemExit):
            main(["serve", str(tmp_path / "tiny.recfx"), "--engine", "ray", "--replicas", wrong])
