"""Code that is not mutated, kind by kind, beside code that looks like it and is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutate import mutants_of


def _found(folder: Path, text: str, file: str = "file.py") -> list[tuple[int, str]]:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text)
    return [(mutant.line, mutant.what) for mutant in mutants_of(folder, file)]


def test_a_warning_may_go_but_its_text_stays(tmp_path: Path) -> None:
    text = "def f(x):\n    warnings.warn(f'{x + 1}', stacklevel=2)\n    _log.info('%s', x * 2)\n    g(x)\n"
    assert _found(tmp_path, text) == [
        (1, "without `g(x)`"),
        (1, "without `warnings.warn(f'{x + 1}', stacklevel=2)`"),
    ]


def test_assertions_and_code_for_type_checkers_stay(tmp_path: Path) -> None:
    assert _found(tmp_path, "assert x > 1 and y\nif TYPE_CHECKING:\n    z = 2\n") == []
    assert (1, "the condition is negated") in _found(tmp_path, "if CHECKING:\n    z = 2\n")


def test_lines_of_progress_stay(tmp_path: Path) -> None:
    text = "with {}('a') as step:\n    step(1)\n    other(2)\n"
    assert [what for line, what in _found(tmp_path, text.format("progress")) if line < 3] == ["without `other(2)`"]
    assert [what for line, what in _found(tmp_path, text.format("lock")) if line == 1] == [
        "without `other(2)`",
        "without `step(1)`",
    ]


@pytest.mark.parametrize(
    ("text", "file", "mutated"),
    [
        ("_BLOCK_VALUES = 1 << 22", "recfx/a.py", False),
        ("_MOST_ROWS = 4096", "recfx/a.py", False),
        ("_MOST_ROWS = 16", "recfx/a.py", True),
        ("_MOST_ROWS = f(4096)", "recfx/a.py", True),
        ("_GAIN = 0.1", "recfx/a.py", True),
        ("_GAIN = 0.1", "recfx/cost/a.py", False),
        ("gain = 0.1", "recfx/cost/a.py", True),
        ("f(0.1)", "recfx/cost/priors.py", False),
        ("_LEFT = 3", "recfx/driver/svg.py", False),
        ("f(_LEFT + x * 2)", "recfx/driver/svg.py", False),
        ("f(x * 2)", "recfx/driver/svg.py", True),
        ("f(_LEFT + x * 2)", "recfx/driver/a.py", True),
        ("def f(x=3): ...", "recfx/zoo/a.py", False),
        ("def f(x): g(3)", "recfx/zoo/a.py", True),
        ("(x.args[:2], x.args[1::y])", "recfx/a.py", True),
        ("(x.args[:2], y.args[1:])", "recfx/a.py", True),
        ("def f(x, y=3): pass", "recfx/a.py", False),
        ("def f(x, *, y=3): pass", "recfx/a.py", False),
        ("def f(x, y=3):\n    with y: pass", "recfx/a.py", True),
        ("def f(x, *, y=3, z=None):\n    with y: pass", "recfx/a.py", True),
        ("def f(*, seconds=1.0):\n    with seconds: pass", "recfx/cost/a.py", False),
        ("def f(*, seconds=1.0):\n    with seconds: pass", "recfx/serve/a.py", True),
        ("Console(highlight=True)", "recfx/a.py", False),
        ("LONG_CALL = 0.25", "recfx/ir/a.py", False),
        ("draw(x, label=y)", "recfx/testing/a.py", False),
        ("draw(st.integers(0, n))", "recfx/testing/a.py", False),
        ("draw(st.integers(0, n))", "recfx/a.py", True),
    ],
)
def test_numbers_that_no_answer_depends_on(text: str, file: str, mutated: bool, tmp_path: Path) -> None:
    assert bool(_found(tmp_path, text + "\n", file)) == mutated


def test_operands_in_both_orders(tmp_path: Path) -> None:
    """The step is mutated, and so is another tuple."""
    assert [what for _, what in _found(tmp_path, "(x.args[:2], x.args[1::-1])")] == ["1 becomes 2"]
    assert len(_found(tmp_path, "(x.args[:2], y.args[1::-1])")) == 3


def test_positions_of_parameters(tmp_path: Path) -> None:
    """The residual of a layer may be its first value, number 0."""
    for text in ("x = y.bias >= 0", "x = y.inner_scale < 0", "def f(bias: int):\n    with g(bias >= 0): pass"):
        assert _found(tmp_path, text) == []
    for text in ("x = y.residual >= 0", "x = y.bias > 0", "x = y.bias >= 1", "x = bias >= 0"):
        assert len(_found(tmp_path, text)) == 2
