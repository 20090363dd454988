"""Building the kernels for other processors: the choices of setup.py, and a compilation for 64-bit Arm."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "recfx" / "kernels" / "csrc"
ARM = ["aarch64", "arm64"]
X86 = ["x86_64", "AMD64"]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module, without a run of setup."""
    spec = importlib.util.spec_from_file_location("recfx_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_source_is_built_for_some_processor(build: ModuleType) -> None:
    chosen = {name for machine in (*ARM, *X86, "riscv64") for name in build.flags_of_sources(machine)}
    assert {*chosen, build.MODULE} == {path.stem for path in SOURCES.glob("*.cpp")}


@pytest.mark.parametrize("machine", [*ARM, *X86, "riscv64"])
def test_levels_go_by_the_processor(build: ModuleType, machine: str) -> None:
    sources = build.flags_of_sources(machine)
    assert {"level_portable", "scan_portable", *build.COMMON} <= set(sources)
    assert any("avx" in name for name in sources) == (machine in X86)
    assert any("neon" in name for name in sources) == (machine in ARM)
    for name, flags in sources.items():
        special = [flag for flag in flags if flag.startswith("-m")]
        assert bool(special) == any(level in name for level in ("avx", "amx", "neon")), name
        assert machine in ARM or not any(flag.startswith("-march=") for flag in special), name
        assert ("-ffp-contract=off" in flags) == name.startswith(("scan", "queries", "retrieval", "encode"))


def test_levels_that_are_dispatched_to_are_those_that_are_built(build: ModuleType) -> None:
    for prefix in ("level_", "scan_"):
        listed = set(re.findall(rf"\{{({prefix}\w+),", (SOURCES / "levels.cpp").read_text()))
        assert listed == {path.stem for path in SOURCES.glob(f"{prefix}*.cpp")}


def test_leftovers_beside_the_sources_are_not_read(build: ModuleType, tmp_path: Path) -> None:
    for name in ("plan.cpp", "plan.h", "gemm.inl", "generate.py", "plan.cpp.orig", ".plan.cpp.swp"):
        (tmp_path / name).touch()
    for folder in ("__pycache__", "old.h"):
        (tmp_path / folder).mkdir()
    assert [path.name for path in build.files_of_kernels(tmp_path)] == ["gemm.inl", "plan.cpp", "plan.h"]


def test_bytecode_does_not_make_the_installation_out_of_date(tmp_path: Path) -> None:
    """Tests import csrc/generate.py, which leaves a folder of bytecode beside the sources."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(SOURCES, tmp_path / SOURCES.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv").mkdir()
    stamp = tmp_path / ".venv" / ".installed"
    stamp.touch()

    def is_current() -> bool:
        return subprocess.run(["make", "--question", "setup"], cwd=tmp_path, check=False).returncode == 0

    later = stamp.stat().st_mtime + 10
    assert is_current()
    (tmp_path / SOURCES.relative_to(ROOT) / "__pycache__").mkdir()
    os.utime(tmp_path / SOURCES.relative_to(ROOT) / "__pycache__", (later, later))
    assert is_current()
    os.utime(tmp_path / SOURCES.relative_to(ROOT) / "plan.cpp", (later, later))
    assert not is_current()


def test_instruction_sets_are_included_only_where_they_exist(build: ModuleType) -> None:
    for path in build.files_of_kernels(SOURCES):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            for header, macro in (
                ("immintrin.h", "__x86_64__"),
                ("arm_neon.h", "__ARM_NEON"),
                ("sys/auxv.h", "__linux__"),
            ):
                if header in line:
                    assert macro in lines[number - 1], f"{path.name}:{number + 1}"


@pytest.mark.parametrize(
    ("version", "gcc"),
    [
        ("g++ (Debian 12.2.0-14) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.", True),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu", False),
    ],
    ids=["gcc", "clang"],
)
def test_options_of_gcc_are_for_gcc(build: ModuleType, tmp_path: Path, version: str, gcc: bool) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\n[ $1 = --version ] && echo '{version}'\n")
    compiler.chmod(0o755)
    assert build.is_gcc([str(compiler), "-pthread", "-fPIC"]) is gcc


@pytest.mark.parametrize("known", [True, False])
def test_matrix_instructions_are_left_out_where_the_compiler_does_not_know_them(
    build: ModuleType, tmp_path: Path, known: bool
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\ncase $* in *-mamx*) exit {0 if known else 1};; esac\n")
    compiler.chmod(0o755)
    assert build.knows_amx([str(compiler), "-pthread"]) is known
    sources = build.flags_of_sources("x86_64", amx=known)
    assert ("level_amx" in sources) is known
    assert ("-DRECFX_AMX" in sources["levels"]) is known


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_sources_are_read_without_a_warning(build: ModuleType) -> None:
    for name, flags in build.flags_of_sources(platform.machine()).items():
        options = [*build.OPTIONS, *build.GCC_OPTIONS, *flags, "-Werror", "-fsyntax-only"]
        done = subprocess.run(["g++", *options, str(SOURCES / f"{name}.cpp")], capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.slow
def test_the_kernels_compile_for_arm(build: ModuleType, tmp_path: Path) -> None:
    """With the clang of the package `ziglang`, whose driver spells architectures in another way."""
    pytest.importorskip("ziglang")
    compiler = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    objects = []
    for name, flags in build.flags_of_sources("aarch64").items():
        objects.append(tmp_path / f"{name}.o")
        spelled = [flag.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a") for flag in flags]
        command = [
            *compiler,
            *build.OPTIONS,
            "-Werror",
            "-fPIC",
            *spelled,
            "-c",
            SOURCES / f"{name}.cpp",
            "-o",
            objects[-1],
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    library = tmp_path / "_kernels.so"
    linked = subprocess.run(
        [*compiler, "-shared", "-Wl,-z,defs", "-o", str(library), *map(str, objects)], capture_output=True, text=True
    )
    assert linked.returncode == 0, linked.stderr
