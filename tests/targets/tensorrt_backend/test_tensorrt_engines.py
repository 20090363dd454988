"""Builds real engines with TensorRT-RTX, in an environment of its own. Skipped where the packages cannot be installed.

Torch here has no CUDA. Without its libraries torch-tensorrt uses a runtime in Python, which such a torch can import.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "requirements-tensorrt.txt"
CHECKS = Path(__file__).with_name("engine_checks.py")


def run(*command: str | Path, seconds: int = 900) -> str:
    """The output of a command; skips the test if it fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"TensorRT-RTX cannot be installed: {error}")
    if found.returncode:
        pytest.skip(f"TensorRT-RTX cannot be installed: {found.stderr.strip()[-300:]}")
    return found.stdout


def environment() -> Path:
    """The Python of an environment with TensorRT-RTX and the packages of this one. It is made once for each set of versions."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    folder = Path(os.environ.get("RECFX_TENSORRT_VENV") or ROOT / ".venv-tensorrt")
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    run(sys.executable, "-m", "venv", "--clear", folder)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "recfx_tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "setuptools>=77", "wheel")  # two of the packages are built, of a few files, on this machine
    run(*pip, "--no-deps", "--no-build-isolation", "-r", REQUIREMENTS)
    for library in (packages / "torch_tensorrt" / "lib").glob("*.so"):
        library.unlink()
    stamp.write_text(wanted)
    return python


@pytest.mark.slow
def test_engines_are_built_without_a_gpu() -> None:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("TensorRT-RTX has packages for Linux on x86-64")
    if shutil.disk_usage(ROOT).free < 2 << 30:
        pytest.skip("TensorRT-RTX needs 2 GiB of disk space")
    command = [environment(), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", CHECKS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert found.returncode == 0, (found.stdout + found.stderr)[-6000:]
    passed = re.search(r"(\d+) passed", found.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 6
