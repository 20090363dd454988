"""`python -m tests.mutants.kernels [FILE ...]`: mutants of the checks of ids, offsets and codes in the kernels, each
with one small mistake. The sources are compiled for one level without optimisation; for a mutant, only its own source
is compiled again. The tests in `CHECKED` must notice every mutant.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from recfx.command_line import run_command
from tests.mutants.execute import KILLED, SURVIVED
from tests.mutants.imports import ROOT
from tests.mutants.known import equivalent
from tests.sanitize import SOURCES, compiler, sources, stubs

_IDS = tuple(f"tests/targets/test_native_{name}.py" for name in ("offsets", "ids", "lookups"))
_INTERFACE = "tests/targets/test_native_interface.py"
_GRAPH = ("tests/targets/test_native_graph.py", _INTERFACE)
_SEARCH = ("tests/retrieval/test_retrieval_kernels.py", _INTERFACE)
_RECURRENT = ("tests/targets/test_native_recurrence.py", "tests/targets/test_native_recurrent.py")
_ROWS = ("tests/targets/test_native_row_records.py", "tests/targets/test_native_row_writes.py")
_PLANS = ("tests/targets/test_native_once.py", "tests/targets/test_native_lookups.py")
_WHOLE = (
    "tests/targets/test_native_empty.py",
    "tests/targets/test_native_odds.py",
    "tests/targets/test_native_functions.py",
)

#: File with checks -> the source that is compiled with it, and the tests that must notice.
CHECKED: dict[str, tuple[str, tuple[str, ...]]] = {
    "lookup.inl": ("level_portable", _IDS),
    "lookup_ids.inl": ("level_portable", _IDS),
    "lookup_bags.inl": ("level_portable", _IDS),
    "take.inl": ("level_portable", _IDS),
    "integer.inl": ("level_portable", _WHOLE),
    "recurrent.inl": ("level_portable", _RECURRENT),
    "encode.cpp": ("encode", ("tests/targets/test_native_encoding.py",)),
    "code_dot.inl": ("level_portable", ("tests/targets/test_native_code_dot.py",)),
    "bpr.cpp": ("bpr", _GRAPH),
    "propagate.cpp": ("propagate", _GRAPH),
    "queries.cpp": ("queries", _SEARCH),
    "retrieval.cpp": ("retrieval", _SEARCH),
    "row_writes.cpp": ("row_writes", (*_ROWS, _INTERFACE)),
    "row_records.cpp": ("row_records", (*_ROWS, _INTERFACE)),
    "levels.cpp": ("levels", (_INTERFACE,)),
    "plan.cpp": ("plan", (_INTERFACE, *_PLANS)),
    "module.cpp": ("module", (_INTERFACE,)),
}

#: Lines with a check, in the forms that the kernels have.
_CHECKS = re.compile(
    "|".join(
        (
            r"uint64_t\([^()]*\) (>=|>|<) ",  # a comparison of unsigned numbers
            r"\bif \(.*\) return (true|false|nullptr|bad\b|-?\d|[A-Z]+_[A-Z_]+\b)",  # an `if` that accepts or refuses
            r"\bif \(.*\) (return|continue);",  # or leaves out
            r"\bif \(.*errors->(?!no_memory)",  # or reports; no test uses up the memory
            r"\bconst bool \w+ = .* ([<>]=?|[!=]=) ",  # a condition with a name
            r"\.slot (<|>=) 0",  # whether an operand is there
            r"\breturn (?!.*cpu_supports)[^?]* (&&|\|\|) ",  # the answer of several conditions
            r"(held|count) \? id_at|\bfits &=|\bfalls \|=|return (fits|high|above|neighbours)\b.*[?>]|"
            r"\bc == -1\b|: INT(32|64)_MIN\b|!= NEVER\b|\bgiven < 0\b|\bpointers < 0\b",
        )
    )
)
#: The first line of a block that refuses or reports.
_BLOCK, _REFUSES = re.compile(r"\bif \(.*\) \{$"), re.compile(r"errors->(?!no_memory)|return (false|-1);")
_COMPARISONS = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ", " == ": " != ", " != ": " == "}


@dataclasses.dataclass(frozen=True)
class KernelMutant:
    """A line of a kernel with a mistake.

    Attributes:
        file: The file in the folder of the sources.
        line: The number of the line, from 1.
        text: The line.
        mutated: The changed line.
        what: The change, in words.
    """

    file: str
    line: int
    text: str
    mutated: str
    what: str

    @property
    def key(self) -> str:
        """As `Mutant.key`."""
        return f"{self.file} | {self.text.strip()} | {self.what}"


def kernel_mutants(file: str) -> list[KernelMutant]:
    """All mutants of the checks in a file."""
    return mutants_of_text(file, (SOURCES / file).read_text())


def mutants_of_text(file: str, text: str) -> list[KernelMutant]:
    """All mutants of the checks in the text of a file."""
    lines = text.splitlines()
    found = []
    for number, (line, next_line) in enumerate(itertools.zip_longest(lines, lines[1:], fillvalue=""), 1):
        code = line.split("//")[0].rstrip()
        if _CHECKS.search(code) or (_BLOCK.search(code) and _REFUSES.search(next_line)):
            found += [KernelMutant(file, number, line, mutated, what) for mutated, what in _mistakes(code)]
    return found


def _mistakes(line: str) -> Iterator[tuple[str, str]]:
    for comparison, other in _COMPARISONS.items():
        for place, at in enumerate(re.finditer(re.escape(comparison), line), 1):
            yield (
                line[: at.start()] + other + line[at.end() :],
                f"{comparison.strip()} number {place} becomes{other.rstrip()}",
            )
    if re.search(r"uint64_t\([^()]*\) >= uint64_t\(", line):  # between signed and unsigned, C++ compares unsigned
        yield line.replace("uint64_t(", "int64_t("), "unsigned becomes signed"
    for joint, neutral in ((" || ", "false"), (" && ", "true")):
        parts = _split(line, joint)
        for place in range(1, len(parts) - 1) if len(parts) > 1 else ():
            yield _joined(parts, place, neutral), f"`{joint.strip()}` without its condition {place}"
    if (asked := re.match(r"(\s*(?:\} )?if \()(.*)(\) (?:\{|return|continue).*)", line)) is not None:
        yield f"{asked[1]}false && ({asked[2]}){asked[3]}", "never refuses"


def _split(line: str, joint: str) -> list[str]:
    """Returns the text before the joined conditions, the conditions with the operators between them, and the rest of
    the line."""
    found = re.search(
        r"(if \(|(?<![<>!=])= |\? |return |\()([^?;{]*?" + re.escape(joint) + r".*?)(\) (?:\{|return|continue)|;| \?)",
        line,
    )
    if found is None:
        return []
    conditions = re.split(re.escape(joint) + r"(?![^(]*\))", found[2])
    return [line[: found.start(2)], *conditions, joint + line[found.end(2) :]]


def _joined(parts: list[str], without: int, neutral: str) -> str:
    joint, rest = parts[-1][:4], parts[-1][4:]
    return parts[0] + joint.join(neutral if i == without else part for i, part in enumerate(parts[1:-1], 1)) + rest


class Build:
    """A library of one level whose sources are compiled one by one.

    Args:
        folder: The folder of the build.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._flags = sources("portable") | {"module": [f"-I{sysconfig.get_path('include')}"]}
        self._objects: dict[str, Path] = {}
        for name, flags in self._flags.items():
            self._objects[name] = self._compile(SOURCES / f"{name}.cpp", flags, folder, SOURCES)
        self._objects["stubs"] = self._compile(stubs(folder, self._flags), ["-std=c++17"], folder, SOURCES)

    def library(self, mutant: KernelMutant | None) -> Path | None:
        """Builds the library with a mutant, or unchanged; None if the mutant does not compile."""
        target, objects = self._folder / "kernels.so", dict(self._objects)
        if mutant is not None:
            with tempfile.TemporaryDirectory() as held:
                folder = Path(held) / "csrc"
                shutil.copytree(SOURCES, folder)
                lines = (folder / mutant.file).read_text().splitlines()
                lines[mutant.line - 1] = mutant.mutated
                (folder / mutant.file).write_text("\n".join([*lines, ""]))
                name = CHECKED[mutant.file][0]
                target = self._folder / "mutant.so"
                try:
                    made = self._compile(folder / f"{name}.cpp", self._flags[name], self._folder / "mutant", folder)
                except subprocess.CalledProcessError:
                    return None
                objects[name] = made
        command = [*compiler(), "-shared", *map(str, objects.values()), "-lpthread", "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    def _compile(self, source: Path, flags: list[str], folder: Path, include: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / f"{source.stem}.o"
        options = ["-O0", "-w", "-fPIC", "-fvisibility=hidden", f"-I{include}"]
        command = [*compiler(), *options, *flags, "-c", str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True)
        return made


def verdict(library: Path, tests: tuple[str, ...], seconds: float) -> str:
    """Whether tests notice a mutated library. It also counts as noticed if it ends their process or exceeds the time
    limit, and if recfx does not load it: then all tests are left out."""
    environment = {
        **os.environ,
        "RECFX_KERNELS": str(library),
        "RECFX_LEVEL": "portable",
        "HYPOTHESIS_PROFILE": "mutants",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return KILLED
    return SURVIVED if done.returncode == 0 and b" passed" in done.stdout else KILLED


@dataclasses.dataclass
class Count:
    """The numbers of judged and of surviving mutants of a file."""

    judged: int = 0
    survived: int = 0

    def __str__(self) -> str:
        return f"{self.judged - self.survived} of {self.judged} mutants of checks noticed"


def judge_file(build: Build, file: str) -> Count | None:
    """Prints the verdict on every mutant of a file; prints the reason and returns None if its tests cannot judge."""
    tests, known, count = CHECKED[file][1], equivalent(), Count()
    plain, began = build.library(None), time.monotonic()
    assert plain is not None
    if verdict(plain, tests, 900.0) != SURVIVED:
        print(f"these tests fail without a mutant, so they cannot judge mutants: {' '.join(tests)}")
        return None
    seconds = max(60.0, 8 * (time.monotonic() - began))  # a mutant that never ends is noticed so
    for mutant in [m for m in kernel_mutants(file) if m.key not in known]:
        library = build.library(mutant)
        found = "rejected" if library is None else verdict(library, tests, seconds)
        count.judged += found != "rejected"
        count.survived += found == SURVIVED
        print(f"{found:9} {file}:{mutant.line}: {mutant.what}   `{mutant.text.strip()[:110]}`", flush=True)
    print(f"{file}: {count}", flush=True)
    return count


def main() -> int:
    """Prints the verdict on every mutant; returns 1 if a mutant survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.kernels", description=__doc__)
    parser.add_argument("files", nargs="*", help="files with checks; all by default")
    parser.set_defaults(run=lambda options: _run(options.files or list(CHECKED)))
    return run_command(parser)


def _run(files: list[str]) -> int:
    """Judges the mutants of some files, and prints how many were noticed."""
    with tempfile.TemporaryDirectory() as folder:
        build = Build(Path(folder))
        counts = [judge_file(build, file) for file in files]
    judged = [count for count in counts if count is not None]
    total = Count(sum(c.judged for c in judged), sum(c.survived for c in judged))
    print(total)
    return int(total.survived > 0 or len(judged) < len(files))


if __name__ == "__main__":
    sys.exit(main())
