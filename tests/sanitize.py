"""Builds the kernels with AddressSanitizer and UndefinedBehaviorSanitizer, separately from the installed kernels, and
runs tests with them.

    python tests/sanitize.py LEVEL [pytest arguments]

LEVEL is an instruction-set level of this processor; "portable" compiles only that level. Without pytest arguments, the
tests of the native target and of retrieval run. Any report of a sanitizer ends the run with an error.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from setup import files_of_kernels, flags_of_sources, knows_amx  # noqa: E402

SOURCES = ROOT / "recfx" / "kernels" / "csrc"
#: The tests of the kernels; those of other backends run none of this library's code.
TESTS = (
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "targets").glob("test_native_*.py"))),
    "tests/retrieval",
)
#: Plugins of pytest in every process of a run.
PLUGINS = ("-p", "without_openvino")
#: -O2 is the lowest level that contracts products and sums; otherwise the functions of a level with such instructions
#: are less exact.
FLAGS = ["-O2", "-g1", "-fPIC", "-fno-omit-frame-pointer", "-fvisibility=hidden"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def sources(level: str) -> dict[str, list[str]]:
    """The sources of a build and the flags of each; a portable build has no sources of other levels."""
    found = flags_of_sources(platform.machine(), amx=knows_amx(compiler()))
    if level != "portable":
        return found
    kept = {n: f for n, f in found.items() if not n.startswith(("level_", "scan_")) or n.endswith("_portable")}
    kept["levels"] = [*kept["levels"], "-D__builtin_cpu_supports(feature)=false"]
    return kept


def stubs(folder: Path, kept: dict[str, list[str]]) -> Path:
    """A source that defines the omitted levels, which the tests do not use."""
    absent = [n for n in flags_of_sources(platform.machine()) if n not in kept]
    lines = ['#include "kernels.h"', '#include "retrieval.h"', "namespace recfx {"]
    for name in absent:
        lines.append(f"const {'Level' if name.startswith('level') else 'ScanLevel'}* {name}() {{ return nullptr; }}")
    path = folder / "stubs.cpp"
    path.write_text("\n".join([*lines, "}", ""]))
    return path


def build(level: str) -> Path:
    """Builds the library with sanitizers; compiles only sources that changed since."""
    folder = ROOT / "build" / "sanitize" / ("portable" if level == "portable" else "all")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "kernels.so"
    newest = max(path.stat().st_mtime for path in [*files_of_kernels(SOURCES), Path(__file__)])
    if library.exists() and library.stat().st_mtime > newest:
        return library
    kept = sources(level)
    jobs = {SOURCES / f"{name}.cpp": flags for name, flags in kept.items()}
    jobs |= {SOURCES / "module.cpp": [f"-I{sysconfig.get_path('include')}"], stubs(folder, kept): ["-std=c++17"]}
    objects = []
    for source, flags in jobs.items():
        objects.append(str(folder / f"{source.stem}.o"))
        command = [*compiler(), *FLAGS, *SANITIZERS, *flags, f"-I{SOURCES}", "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True)
    subprocess.run([*compiler(), *FLAGS, *SANITIZERS, "-shared", *objects, "-lpthread", "-o", str(library)], check=True)
    return library


def environment(level: str, library: Path, reports: Path) -> dict[str, str]:
    """The environment of a Python process that loads the library: the sanitizer's own library comes first, and leaks of
    Python are ignored. The C++ library is preloaded, because otherwise the sanitizer does not find it and ends the
    process at the first exception of torch. Reports go to files or to standard error, which pytest must not capture: a
    report ends the process, and with it what was captured.
    """
    return {
        **os.environ,
        "LD_PRELOAD": f"{_of_compiler('libasan.so')} {_of_compiler('libstdc++.so.6')}",
        "ASAN_OPTIONS": f"detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1:log_path={reports}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}",
        "RECFX_KERNELS": str(library),
        "RECFX_LEVEL": level,
    }


def compiler() -> list[str]:
    """The C++ compiler with the prefix of the environment variable CXX, such as "ccache g++"."""
    return shlex.split(os.environ.get("CXX", "g++"))


def _of_compiler(name: str) -> str:
    """The path of a library of the compiler."""
    command = [*compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(level: str, *arguments: str) -> int:
    library = build(level)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--capture=sys",
        "-n",
        "auto",
        "--dist",
        "worksteal",
        *PLUGINS,
        *(arguments or TESTS),
    ]
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder) / "report"
        code = subprocess.run(command, cwd=ROOT, env=environment(level, library, reports), check=False).returncode
        written = sorted(Path(folder).iterdir())
        for path in written:
            sys.stderr.write(path.read_text(errors="replace"))
    return code or int(bool(written))


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["portable"])))
