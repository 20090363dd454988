"""The machine and the versions that a result records."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from recfx.cost.processor import processor

_ROOT = Path(__file__).parents[1]


def environment(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Machine, versions, date and source revision, as plain values.

    Args:
        packages: Further distributions whose versions are recorded.
    """
    chip = processor()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "cpu": chip.name,
        "cores": chip.cores,
        "flags": list(chip.flags),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in sorted({"torch", "numpy", "recfx", *packages})},
    }


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of the source, with a + if files were changed since; None without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
