"""Builds the native kernels. Everything else about the package is in pyproject.toml.

The library needs no torch to build. Each instruction-set level is one source with flags of its own. Where there is no compiler, the
package installs without the library and recfx runs on its other backends.
"""

from __future__ import annotations

import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("recfx/kernels/csrc")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd", "-mprefer-vector-width=512"]
AVX512_BF16 = [*AVX512, "-mavx512vnni", "-mavx512bf16"]
COMMON = [
    "plan",
    "pool",
    "openmp",
    "turns",
    "order",
    "propagate",
    "bpr",
    "queries",
    "retrieval",
    "costs",
    "encode",
    "row_writes",
    "row_records",
    "checksum",
    "levels",
]
MODULE = "module"  # the Python module, which alone needs the headers of Python
# Without debug information, which Python's own flags ask for: it takes a quarter of the time and five sixths of the library.
OPTIONS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Of GCC alone, whose own headers make vectors of undefined values: it would print 40,000 lines about them.
GCC_OPTIONS = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
# What a processor's family adds to the portable levels. Searches have levels of their own: on x86, counting bits in vectors came to
# processors apart from bfloat16.
X86_FLAGS = {
    "level_portable": ["-O2"],  # for processors from before 2013: it takes two thirds of the time to compile
    "level_avx2": AVX2,
    "level_avx512": AVX512,
    "level_avx512_bf16": AVX512_BF16,
    "level_amx": [*AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
    "scan_avx2": AVX2,
    "scan_avx512": AVX512,
    "scan_avx512_vpopcntdq": [*AVX512, "-mavx512vnni", "-mavx512vpopcntdq"],
}
ARM_FLAGS = {"level_neon_dotprod": ["-march=armv8.2-a+dotprod"]}
FAMILIES = {"x86_64": X86_FLAGS, "amd64": X86_FLAGS, "aarch64": ARM_FLAGS, "arm64": ARM_FLAGS}


def flags_of_sources(machine: str, amx: bool = True) -> dict[str, list[str]]:
    """The C++ sources of a machine, as `platform.machine()` names it, and the flags that each needs beside those of all; without
    `amx`, those that need no instructions of AMX."""
    levels: dict[str, list[str]] = {"level_portable": [], "scan_portable": [], **FAMILIES.get(machine.lower(), {})}
    if not amx:
        levels.pop("level_amx", None)
    elif "level_amx" in levels:
        levels["levels"] = ["-DRECFX_AMX"]
    # All levels and machines give the same bits in a search and in a table, which a contracted product and sum would not.
    exact = ("scan", "queries", "retrieval", "encode")
    return {
        name: ["-std=c++17", *flags, *(["-ffp-contract=off"] if name.startswith(exact) else [])]
        for name, flags in {**{name: [] for name in COMMON}, **levels}.items()
    }


def files_of_kernels(folder: Path = SOURCES) -> list[Path]:
    """The files that a build of the kernels reads; the folder may also hold bytecode or copies that an editor left."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h", ".inl") and path.is_file())


def is_gcc(compiler: list[str]) -> bool:
    """Whether a compiler is GCC. Others that take its options, such as clang, refuse or ignore some of them."""
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return "Free Software Foundation" in done.stdout


def knows_amx(compiler: list[str]) -> bool:
    """Whether a compiler and its assembler know the instructions of AMX: GCC and clang do from version 11 on, binutils from 2.36."""
    command = [*compiler, *X86_FLAGS["level_amx"], "-x", "c", "-c", "-o", os.devnull, "-"]
    text = 'void f(void) { __asm__ volatile("tdpbusd %tmm2, %tmm1, %tmm0"); }'
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).returncode == 0


class BuildKernels(build_ext):
    """Gives each level's source its own flags, and compiles the sources in parallel.

    The environment variable RECFX_BUILD_JOBS limits how many are compiled at once; without it, as many as there are processors.
    """

    def build_extension(self, ext: Any) -> None:
        compiler: Any = self.compiler
        compile_one = compiler._compile
        flags = flags_of_sources(platform.machine(), amx=knows_amx(compiler.compiler_so))
        ext.sources = [source for source in ext.sources if Path(source).stem in {*flags, MODULE}]
        own = GCC_OPTIONS if is_gcc(compiler.compiler_so) else []
        jobs = int(os.environ.get("RECFX_BUILD_JOBS") or os.cpu_count() or 1)

        def with_level_flags(
            obj: str, src: str, ext_: str, cc_args: list[str], extra: list[str], pp: list[str]
        ) -> None:
            compile_one(obj, src, ext_, cc_args, [*extra, *own, *flags.get(Path(src).stem, [])], pp)

        def in_parallel(
            sources: list[str],
            output_dir: str | None = None,
            macros: Any = None,
            include_dirs: Any = None,
            debug: bool = False,
            extra_preargs: Any = None,
            extra_postargs: Any = None,
            depends: Any = None,
        ) -> list[str]:
            macros, objects, extra, pp, build = compiler._setup_compile(
                output_dir, macros, include_dirs, sources, depends, extra_postargs
            )
            cc_args = compiler._get_cc_args(pp, debug, extra_preargs)
            # The levels take longest, so they are first.
            order = sorted(build, key=lambda obj: not Path(obj).stem.startswith("level_"))
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(lambda obj: with_level_flags(obj, *build[obj], cc_args, extra, pp), order))
            return objects

        compiler.compile = in_parallel
        super().build_extension(ext)


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension(
                "recfx.kernels._kernels",
                sources=[
                    *(str(SOURCES / f"{name}.cpp") for name in flags_of_sources(platform.machine())),
                    str(SOURCES / f"{MODULE}.cpp"),
                ],
                depends=[str(path) for path in files_of_kernels()],
                extra_compile_args=OPTIONS,
                libraries=["pthread"],
                language="c++",
                py_limited_api=True,
                optional=True,
            )
        ],
        cmdclass={"build_ext": BuildKernels},
    )
