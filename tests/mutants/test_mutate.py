"""The mutants of a source file, and code that is not mutated."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.mutants.mutate import mutants_of
from tests.mutants.observe import NamedFirst

MUTANTS = {
    "x < 1": ["1 becomes 2", "Lt becomes LtE"],
    "x * 1000.0": ["1000.0 becomes 2000.0", "Mult becomes FloorDiv"],
    "x * 0.5": ["0.5 becomes 1.5", "Mult becomes FloorDiv"],
    "x and y": ["`and` without its condition 1", "`and` without its condition 2"],
    "not x": ["`not` is dropped"],
    "f(x, wide=y)": ["without the keyword wide"],
    "zip(x, y, strict=True)": [],
    "f(x, strict=True)": ["True becomes False", "without the keyword strict"],
    "dataclasses.dataclass(frozen=True, eq=False)": ["False becomes True", "without the keyword eq"],
    "'a' + y": [],
    "InputError(f'{x + 1}', hint=y)": [],
    "_log.info(x, extra=1)": [],
    "torch.zeros(x, device=y)": [],
    "torch.zeros(x, dtype=y)": ["without the keyword dtype"],
    "run(x, timeout=5.0)": [],
    "functools.lru_cache(maxsize=64)": [],
    "dataclasses.dataclass(slots=True)": [],
}


@pytest.mark.parametrize("text", MUTANTS)
def test_the_mistakes_of_an_expression(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(f"z = {text}\n")
    mutants = mutants_of(tmp_path, "file.py")
    assert [mutant.what for mutant in mutants] == MUTANTS[text]
    sources = {ast.unparse(mutant.tree(tmp_path)) for mutant in mutants}
    assert len(sources - {ast.unparse(ast.parse(f"z = {text}"))}) == len(mutants)
    for mutant in mutants:
        compile(mutant.tree(tmp_path), "file.py", "exec")  # a mutant that Python refuses would count as noticed


def test_conditions_that_are_left(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("z = a and (b or c) and d\n")
    found = {ast.unparse(mutant.tree(tmp_path)) for mutant in mutants_of(tmp_path, "file.py")}
    assert found == {
        f"z = {kept}" for kept in ("(b or c) and d", "a and d", "a and (b or c)", "a and b and d", "a and c and d")
    }


def test_text_and_errors_are_not_mutated(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text('def f(x: int) -> None:\n    """2."""\n    raise ValueError(f"{x + 1}")\n')
    assert mutants_of(tmp_path, "file.py") == []


def test_no_answer_is_false(tmp_path: Path) -> None:
    """None in place of False changes nothing where a condition reads it; in another type it may."""
    body = "    if x:\n        return True\n    return False\n"
    for kind, more in (("bool", []), ("object", [(4, "returns None")])):
        (tmp_path / "file.py").write_text(f"def f(x) -> {kind}:\n{body}")
        found = [(m.line, m.what) for m in mutants_of(tmp_path, "file.py") if m.line != 2]
        assert found == [(3, "True becomes False"), (3, "returns None"), (4, "False becomes True"), *more]


def test_the_status_of_a_command_that_succeeds(tmp_path: Path) -> None:
    for takes, more in (("options: argparse.Namespace", []), ("options: dict", [(2, "returns None")])):
        (tmp_path / "file.py").write_text(f"def run({takes}) -> int:\n    return 0\n")
        found = sorted((m.line, m.what) for m in mutants_of(tmp_path, "file.py"))
        assert found == [(2, "0 becomes 1"), *more]


def test_the_function_of_a_mutant(tmp_path: Path) -> None:
    source = "a = 1\n\n\n@wraps(2)\ndef f(x=3):\n    def g():\n        return 4\n    return g, x\n"
    (tmp_path / "file.py").write_text(source)
    found = {(m.what, m.function(tmp_path)) for m in mutants_of(tmp_path, "file.py") if "becomes" in m.what}
    assert found == {
        ("1 becomes 2", None),
        ("2 becomes 3", None),
        ("3 becomes 4", None),
        ("4 becomes 5", 6),
    }


def test_the_words_of_a_mutant(tmp_path: Path) -> None:
    """Tests with such words in their names run first."""
    source = "a = 1\n\n\n@rule(_aten.rms_norm.default, _aten.add.Tensor)\ndef _norms(x):\n    return x + 2\n"
    (tmp_path / "file.py").write_text(source)
    found = {m.what: m.words(tmp_path) for m in mutants_of(tmp_path, "file.py")}
    assert found["1 becomes 2"] == frozenset()
    assert found["2 becomes 3"] == {"norms", "rms_norm", "add"}


def test_the_names_in_the_function_of_a_mutant(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a = 1\n\n\ndef f(x, y=2):\n    return x.wide + y + g(3)\n")
    found = {m.what: m.names(tmp_path) for m in mutants_of(tmp_path, "file.py")}
    assert found["1 becomes 2"] == found["2 becomes 3"] == frozenset()
    assert found["3 becomes 4"] == {"f", "x", "wide", "y", "g"}


def test_tests_with_a_word_in_their_names_run_first() -> None:
    drawn = SimpleNamespace(is_hypothesis_test=True)
    items = [
        SimpleNamespace(nodeid="test_rms_norm.py::test_a", obj=drawn),
        SimpleNamespace(nodeid="test_x.py::test_b"),
        SimpleNamespace(nodeid="test_x.py::test_c[rms_norm.default]", obj=drawn),
        SimpleNamespace(nodeid="test_x.py::test_d[rms_norm.default]"),
    ]
    NamedFirst(["rms_norm"]).pytest_collection_modifyitems(items)
    assert [item.nodeid.partition("::")[2][:6] for item in items] == ["test_d", "test_c", "test_b", "test_a"]
