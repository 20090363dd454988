"""The checks of the kernels that are mutated, found by the forms in which the kernels write them."""

from __future__ import annotations

import re

import pytest

from tests.mutants.kernels import CHECKED, kernel_mutants, mutants_of_text
from tests.mutants.known import equivalent
from tests.sanitize import SOURCES

#: A line of a kernel, and the mistakes that it is given.
LINES: dict[str, list[str]] = {
    "if (n >= 1 && n <= most) return true;": [
        *("<= number 1 becomes <", ">= number 1 becomes >", "`&&` without its condition 1"),
        *("`&&` without its condition 2", "never refuses"),
    ],
    "if (ended) continue;": ["never refuses"],
    "if (!begin(r, n)) return;": ["never refuses"],
    "if (added < 0) return c.errors->bad_id(c.step, bad);": ["< number 1 becomes <=", "never refuses"],
    "if (done < count) c.errors->bad_id(c.step, bad);": ["< number 1 becomes <="],
    "length = view.slot < 0 ? steps : *of(view);": ["< number 1 becomes <="],
    "const bool ended = n >= one.length;": [">= number 1 becomes >"],
    "return first && second == 3;": [
        *("== number 1 becomes !=", "`&&` without its condition 1", "`&&` without its condition 2"),
    ],
    "if (uint64_t(id) >= uint64_t(rows)) return false;": [
        *(">= number 1 becomes >", "unsigned becomes signed", "never refuses"),
    ],
    "if (end < limit) {\n    c.errors->bad_offsets(c.step, end);": ["< number 1 becomes <=", "never refuses"],
    "if (end < limit) {\n    end = limit;": [],
    "if (!held) return c.errors->no_memory(c.step, bytes);": [],
    "for (int64_t n = begin; n < end; ++n) sum += x[n];": [],
    'return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");': [],
}


@pytest.mark.parametrize("text", LINES)
def test_the_mistakes_of_a_line(text: str) -> None:
    mutants = mutants_of_text("file.inl", f"  {text}\n")
    assert [mutant.what for mutant in mutants] == LINES[text]
    assert all(mutant.line == 1 and mutant.mutated != mutant.text for mutant in mutants)


def test_a_condition_that_goes_is_replaced_whole() -> None:
    found = {m.what: m.mutated for m in mutants_of_text("file.inl", "return x >= low && x < high ? x : low;")}
    assert found["`&&` without its condition 1"] == "return true && x < high ? x : low;"
    assert found["`&&` without its condition 2"] == "return x >= low && true ? x : low;"


def test_every_report_of_a_wrong_input_has_a_check_that_is_mutated() -> None:
    """The check is on the line of the report or on one of the two lines before it."""
    reports = re.compile(r"errors->(?!no_memory)")
    for path in sorted(SOURCES.glob("*.inl")):
        lines = path.read_text().splitlines()
        found = [number for number, line in enumerate(lines, 1) if reports.search(line.split("//")[0])]
        assert not found or path.name in CHECKED, path.name
        mutated = {mutant.line for mutant in kernel_mutants(path.name)}
        assert all(mutated & {number - 2, number - 1, number} for number in found), path.name


def test_equivalent_mutants_of_kernels_are_mutants() -> None:
    keys = {mutant.key for file in CHECKED for mutant in kernel_mutants(file)}
    assert {key for key in equivalent() if key.split(" | ")[0] in CHECKED} <= keys
