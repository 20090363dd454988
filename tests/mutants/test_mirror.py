"""The test files of a source file: first those of its name, then those that reach it through helpers, packages and names of passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import mirror
from tests.mutants.imports import ROOT, distances


def test_every_mutated_file_has_tests() -> None:
    assert [file for file in mirror.mutated_files() if not mirror.tests_of(file)] == []


def test_every_room_is_mutated() -> None:
    rooms = {str(Path(file).parent) for file in mirror.mutated_files()}
    assert {"recfx", "recfx/learn/recipes", "recfx/zoo", "passes/cross", "targets/native/rules"} <= rooms


@pytest.mark.parametrize(
    ("file", "test"),
    [
        ("passes/cross/fuse_cross.py", "tests/passes/cross/test_fuse_cross.py"),
        ("recfx/ir/functional_ops.py", "tests/capture/test_functionalize.py"),
        ("recfx/kernels/searches.py", "tests/retrieval/test_retrieval_kernels.py"),
        ("recfx/cli.py", "tests/test_cli.py"),
        ("passes/cross/vector_products.py", "tests/passes/cross/test_fuse_cross.py"),
        ("targets/native/rules/concatenate.py", "tests/targets/test_native_lookups.py"),
        ("targets/native/rules/matrix.py", "tests/targets/conformance/test_conformance.py"),
    ],
    ids=[
        *("by its name", "through a helper", "of another room", "of no room", "by the pass's name", "by its package"),
        "by its operators",
    ],
)
def test_the_tests_of_a_file(file: str, test: str) -> None:
    assert test in mirror.tests_of(file)


def test_named_tests_come_first() -> None:
    first, second, *_ = mirror.tests_of("passes/cross/fuse_cross.py")
    assert [first, second] == [
        "tests/passes/cross/test_fuse_cross.py",
        "tests/passes/cross/test_fuse_cross_edges.py",
    ]


def test_a_name_that_a_package_offers_counts_as_its_module() -> None:
    """`from recfx.ir import Program` imports recfx/ir/program.py, and none of the other modules of the package."""
    test = "tests/cost/test_arithmetic.py"
    assert "from recfx.ir import Program" in (ROOT / test).read_text()
    assert distances("recfx.ir.program")[test] == 1
    assert distances("recfx.ir.diff").get(test, 2) > 1
