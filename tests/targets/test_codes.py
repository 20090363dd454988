"""The table of numbers that the lowering and the kernels share, and what is generated from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from native_kit import needs_kernels

import recfx
from recfx.kernels import codes, generate, library
from recfx.ops.descriptions import ACTIVATIONS

CSRC = Path(library.__file__).parent / "csrc"


def test_the_generated_files_are_those_of_the_table() -> None:
    for path, text in generate.files().items():
        assert path.read_text() == text, f"{path.name} is out of date: python -m recfx.kernels.generate"


def test_activations_have_the_order_of_the_dialect() -> None:
    assert [name.lower().replace("_", "-") for name in codes.Act.__members__] == list(ACTIVATIONS)


def test_no_kernel_decides_on_a_bare_number_of_an_operation() -> None:
    for name in ("pointwise.inl", "integer.inl", "elements.inl", "activation.inl", "elementary.inl"):
        assert not re.findall(r"case \d+:|code\[0\] == \d", (CSRC / name).read_text()), name
    for path in CSRC.iterdir():
        assert not re.findall(r"raise\(\{\d", path.read_text()), path.name


def test_no_rule_names_an_operation_by_its_number() -> None:
    rules = Path(recfx.__file__).parent / "targets" / "native" / "rules"
    for path in rules.glob("*.py"):
        assert not re.findall(r"Operation\(\d", path.read_text()), path.name


@needs_kernels
def test_a_library_of_another_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = Path(library.__file__).parent.glob("_kernels*.so")
    library.Library(path)
    monkeypatch.setattr(library, "DIGEST", codes.DIGEST + 1)
    with pytest.raises(OSError, match="another table of codes"):
        library.Library(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("SUB = 1", "SUB = 0"), r"twice in \[op\]"),
        (lambda text: text.replace("ROW_NUMBERS = 19", "ROW_NUMBERS = 20"), r"\[kind\] leave some out"),
        (lambda text: text.replace("[fold]", "[folds]"), "sections"),
    ],
)
def test_a_table_that_contradicts_itself_is_an_error(
    change: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "codes.toml"
    changed.write_text(change(generate.TABLE.read_text()))  # type: ignore[operator]
    monkeypatch.setattr(generate, "TABLE", changed)
    with pytest.raises(ValueError, match=message):
        generate.files()
