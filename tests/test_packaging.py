"""The wheel: its contents, and its use in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the working tree stays clean."""
    source = tmp_path_factory.mktemp("source") / "recfx"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        if not (ROOT / name).exists():
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to(os.readlink(ROOT / name))
        else:
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), str(source)], check=True
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"recfx"}
    for needed in (
        "recfx/passes/__init__.py",
        "recfx/passes/clean/canonicalize.py",
        "recfx/targets/native/rules/view.py",
        "recfx/kernels/codes.py",
        "recfx/kernels/slots.py",
        "recfx/targets/eager/backend.py",
        "recfx/capture/capture.py",
        "recfx/learn/recipes/hqgnn.py",
        "recfx/py.typed",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("recfx/kernels/_kernels") for name in names), "the kernels were not built"
    assert not any("csrc" in name or name.endswith(("codes.toml", "generate.py")) for name in names)


@pytest.mark.slow
def test_wheel_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    run = subprocess.run(
        [str(tmp_path / "env" / "bin" / "recfx"), "demo", "--seconds", "3", "--rows", "20000", "--save", "model"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "AUC" in run.stdout
    check = "import recfx, sys; print(recfx.load('model').report.model); print(recfx.__file__)"
    loaded = subprocess.run([str(python), "-c", check], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "DeepFM" in loaded.stdout
    assert str(tmp_path) in loaded.stdout
