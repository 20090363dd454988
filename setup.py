"""Builds the native kernels. Everything else about the package is in pyproject.toml.

The library needs no torch to build. Each instruction-set level is one source with flags of its own. Where there is no compiler, the
package installs without the library and recfx runs on its other backends.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("targets/native/csrc")
X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd", "-mprefer-vector-width=512"]
LEVEL_FLAGS = {
    "level_portable": [],
    "level_avx2": AVX2,
    "level_avx512": AVX512,
    "level_avx512_bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
}
# Searches have levels of their own: counting bits in vectors came to processors apart from bfloat16.
SCAN_FLAGS = {
    "scan_portable": [],
    "scan_avx2": AVX2,
    "scan_avx512": AVX512,
    "scan_avx512_vpopcntdq": [*AVX512, "-mavx512vnni", "-mavx512vpopcntdq"],
}
FLAGS = {**LEVEL_FLAGS, **{name: [*flags, "-ffp-contract=off"] for name, flags in SCAN_FLAGS.items()}}
LEVELS = [*LEVEL_FLAGS, *SCAN_FLAGS] if X86 else ["level_portable", "scan_portable"]


class BuildKernels(build_ext):
    """Gives each level's source its own flags."""

    def build_extension(self, ext: Any) -> None:
        compiler: Any = self.compiler
        compile_one = compiler._compile

        def with_level_flags(
            obj: str, src: str, ext_: str, cc_args: list[str], extra: list[str], pp: list[str]
        ) -> None:
            language = ["-std=c++17"] if src.endswith(".cpp") else []
            compile_one(obj, src, ext_, cc_args, [*extra, *language, *FLAGS.get(Path(src).stem, [])], pp)

        compiler._compile = with_level_flags
        super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "recfx.targets.native._kernels",
            sources=[
                *(
                    str(SOURCES / f"{name}.cpp")
                    for name in ["plan", "pool", "propagate", "bpr", "levels", "retrieval", *LEVELS]
                ),
                str(SOURCES / "module.c"),
            ],
            depends=[str(path) for path in sorted(SOURCES.iterdir())],
            extra_compile_args=["-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
            libraries=["pthread"],
            language="c++",
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
