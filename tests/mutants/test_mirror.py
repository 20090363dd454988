"""The test files of a source file: first those of its name, then those that reach it through helpers, packages and names of passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import mirror
from tests.mutants.imports import ROOT, distances


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("recfx/data/bpr.py", "tests/data/test_data_bpr.py"),
        ("targets/tensorrt/times.py", "tests/targets/tensorrt_backend/test_tensorrt_times.py"),
        ("targets/openvino/rules/shapes.py", "tests/targets/conformance/test_conformance.py"),
        ("targets/inductor/backend.py", "tests/targets/test_inductor.py"),
        ("recfx/simulation_command/options.py", "tests/test_simulation_command.py"),
        ("recfx/driver/lookup_check.py", "tests/driver/test_bad_ids.py"),
    ],
    ids=["room in front", "folder of another name", "suite", "room", "package of a file", "by its messages"],
)
def test_the_nearest_test_of_a_file(file: str, first: str) -> None:
    assert mirror.tests_of(file)[0] == first


def test_a_short_name_is_no_part_of_other_words() -> None:
    """The tests of "uncalled" things are not those of call.py."""
    assert mirror._without_room("native_call", {"native"}) == "call"
    assert mirror._without_room("recalled", {"native"}) == "recalled"
    assert "tests/targets/test_native_huge_pages.py" in mirror.tests_of("targets/native/call.py")


def test_a_name_that_a_package_offers_counts_as_its_module() -> None:
    """`from recfx.ir import Program` imports recfx/ir/program.py, and none of the other modules of the package."""
    test = "tests/cost/test_arithmetic.py"
    assert "from recfx.ir import Program" in (ROOT / test).read_text()
    assert distances("recfx.ir.program")[test] == 1
    assert distances("recfx.ir.diff").get(test, 2) > 1


@pytest.mark.parametrize(
    ("file", "test"),
    [
        ("passes/prune/remove_dead_channels.py", "tests/passes/test_pass_declarations.py"),
        ("recfx/serve/server.py", "tests/test_public_defaults.py"),
        ("targets/base.py", "tests/test_public_defaults.py"),
    ],
)
def test_declarations_are_tested_together(file: str, test: str) -> None:
    assert mirror.tests_of_declarations(file) == (test,)


def test_every_mutated_file_may_declare_something() -> None:
    assert all(
        (ROOT / test).is_file() for file in mirror.mutated_files() for test in mirror.tests_of_declarations(file)
    )


def test_some_tests_are_chosen_by_what_they_name() -> None:
    """Shares of the time that stay at a refresh are tested with the shares."""
    files = mirror.tests_of("recfx/driver/refresh.py")
    assert "tests/driver/test_torch_operators.py" not in files[:8]
    chosen = mirror.for_names(files, {"left_to_torch", "torch_operators", "report"}, 8)
    assert chosen[:6] == [*files[:5], "tests/driver/test_torch_operators.py"]
    assert len(set(chosen)) == 8
    assert mirror.for_names(files[:3], {"report"}, 8) == list(files[:3])
    assert mirror.for_names(files, frozenset(), 8) == list(files[:8])
