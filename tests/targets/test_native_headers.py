"""Every header of the kernels compiles alone: it includes what it uses, at every instruction-set level."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "recfx" / "kernels" / "csrc"
COMPILER = shlex.split(os.environ.get("CXX", "")) or ["g++"]
SCANS = {"scan.inl", "scan_units.inl"}  # which the levels of searches include
BOTH = {"half.inl", "intrinsics.h"}

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[-1]) is None, reason=f"{COMPILER[-1]} is not installed")


def _levels() -> dict[str, list[str]]:
    """Source of a level -> the flags of that source and the macros that it defines."""
    spec = importlib.util.spec_from_file_location("recfx_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    found = {}
    for name, flags in setup.flags_of_sources(platform.machine()).items():
        if name.startswith(("level_", "scan_")):
            macros = re.findall(r"#define (\w+) (.+)", (SOURCES / f"{name}.cpp").read_text())
            found[name] = [*flags, *(f"-D{macro}={value}" for macro, value in macros)]
    return found


LEVELS = _levels()


def _headers(level: str) -> list[Path]:
    """The headers that the sources of a level include."""
    scans = level.startswith("scan_")
    return [
        path
        for path in sorted([*SOURCES.glob("*.inl"), *SOURCES.glob("*.h")])
        if path.name in BOTH or path.suffix == ".h" or (path.name in SCANS) is scans
    ]


def _check(header: Path, flags: list[str]) -> None:
    command = [*COMPILER, *flags, "-fsyntax-only", "-Wno-unused-function", f"-I{SOURCES}", "-x", "c++", "-"]
    done = subprocess.run(command, input=f'#include "{header.name}"\n', capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{header.name} does not compile alone:\n{done.stderr}"


# Compiling without intrinsics is fast, so this level is checked for every header, and the other levels in the slow tests.
@pytest.mark.parametrize("header", [path.name for path in _headers("level_portable")])
def test_headers_compile_alone(header: str) -> None:
    _check(SOURCES / header, LEVELS["level_portable"])


@pytest.mark.parametrize("header", sorted(SCANS))
def test_headers_of_searches_compile_alone(header: str) -> None:
    _check(SOURCES / header, LEVELS["scan_portable"])


@pytest.mark.slow
@pytest.mark.parametrize("level", sorted(set(LEVELS) - {"level_portable", "scan_portable"}))
def test_headers_compile_alone_at_every_level(level: str) -> None:
    for header in _headers(level):
        _check(header, LEVELS[level])


def test_a_header_that_misses_an_include_is_found(tmp_path: Path) -> None:
    text = (SOURCES / "take.inl").read_text()
    (tmp_path / "take.inl").write_text(text.replace('#include "lookup_ids.inl"\n', ""))
    command = [*COMPILER, *LEVELS["level_portable"], "-fsyntax-only", f"-I{SOURCES}", "-x", "c++", "-"]
    include = f'#include "{tmp_path / "take.inl"}"\n'
    assert subprocess.run(command, input=include, capture_output=True, text=True, timeout=300).returncode != 0
