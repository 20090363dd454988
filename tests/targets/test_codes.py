"""The table of numbers that the lowering and the kernels share, and the files generated from it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from native_kit import needs_kernels

import recfx
from recfx.kernels import codes, library, slots
from recfx.ops import descriptions
from recfx.targets.native.steps import Step, View, records

CSRC = Path(library.__file__).parent / "csrc"
NATIVE = Path(recfx.__file__).parent / "targets" / "native"

#: Expressions of switches that may have plain numbers as cases: counts of rows, vectors, bytes, words or bits.
COUNTS = {
    "count",
    "vectors",
    "own.feature->dim % W ? 0 : own.feature->dim / W",
    "size_of(context.slots[step.out.slot].dtype)",
    "search.words",
    "search.bits",
    "bits",
    "t.query_bits",
    "t.width / 8",
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recfx_generate", CSRC / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_those_of_the_table(generate: ModuleType) -> None:
    for path, text in generate.files().items():
        assert path.read_text() == text, f"{path.name} is out of date: python recfx/kernels/csrc/generate.py"


def test_numbers_of_the_dialect_are_those_of_the_table() -> None:
    assert [name.lower().replace("_", "-") for name in codes.Act.__members__] == list(descriptions.ACTIVATIONS)
    assert {name: getattr(descriptions, name) for name in codes.Pooling.__members__} == dict(codes.Pooling.__members__)


def _sources() -> Iterator[tuple[str, str]]:
    """Name and text, without comments, of every handwritten source of the kernels."""
    for path in sorted([*CSRC.glob("*.inl"), *CSRC.glob("*.cpp"), *CSRC.glob("*.h")]):
        if path.name not in ("codes.h", "slots.h"):
            yield path.name, re.sub(r"//.*", "", path.read_text())


def _modules() -> Iterator[tuple[str, str]]:
    for path in sorted(NATIVE.rglob("*.py")):
        yield path.name, path.read_text()


def test_kernels_name_the_arguments_of_steps() -> None:
    for name, text in _sources():
        literals = re.findall(r"(?:\.|->|\b)(?:ints|floats|pointers|views)\s*(?:\[\s*\d|\+\s*\d)[^\n]*", text)
        assert not literals, f"{name}: {literals}"


def test_the_lowering_names_the_arguments_of_steps() -> None:
    for name, text in _modules():
        literals = re.findall(r"\b(?:ints|floats|pointers|views)\s*\[\s*\d[^\n]*", text)
        literals += re.findall(r"\b(?:ints|floats|pointers|views)(?:: [^\n=]+)? = ?\{\s*\d[^\n]*", text)
        literals += re.findall(r"\b(?:ints|floats)=\[[^\n]*|\{\d: [^\n]*", text)
        assert not literals, f"{name}: {literals}"


def test_codes_are_compared_by_name() -> None:
    compared = r"\b(?:kind|format_?|pooling|op|code|activation)\b\s*(?:==|!=|<=|>=|<|>)\s*-?[1-9]\d*\b[^\n]*"
    for name, text in [*_sources(), *_modules()]:
        literals = re.findall(compared, text)
        assert not literals, f"{name}: {literals}"


def test_errors_and_results_are_named() -> None:
    found = 0
    for name, text in _sources():
        assert not re.findall(r"raise\(\{\s*\d|last_error = \{\s*\d", text), name
        for body in re.findall(
            r"^(?:extern \"C\" )?int64_t recfx_(?:bpr|propagate|search|rescore|round_queries)\(.*?^}", text, re.M | re.S
        ):
            found += 1
            assert not re.findall(r"return -?\d", body), name
    assert found == len(("bpr", "propagate", "search", "rescore", "round_queries"))


def test_kernels_switch_on_names() -> None:
    for name, text in _sources():
        for switch in re.split(r"\bswitch\s*\(", text)[1:]:
            subject, body = switch.split(") {", 1)
            if re.search(r"\bcase -?\d", body):
                assert subject in COUNTS, f"{name}: switch ({subject})"


def test_operations_are_named() -> None:
    for name, text in _modules():
        assert not re.findall(r"Operation\(\s*\d", text), name


def test_a_step_takes_arguments_of_its_own_kind_alone() -> None:
    view = View(0, 0, ((1, 1),))
    Step(codes.Kind.FM, False, {slots.FmView.VECTORS: view}, view, {slots.FmInt.TOTAL: 1})
    with pytest.raises(ValueError, match=r"DotView\.VECTORS.* is not an argument of a fm step"):
        Step(codes.Kind.FM, False, {slots.DotView.VECTORS: view}, view)
    with pytest.raises(ValueError, match=r"GemmPointer\.WEIGHT"):
        Step(codes.Kind.GEMM, False, {}, view, {slots.GemmPointer.WEIGHT: 1})


def test_records_lie_one_after_another() -> None:
    fields = slots.KeyScoresLayerPointer
    made = records(slots.KeyScoresPointer.LAYERS, fields, [{fields.VECTORS: 7}, {fields.VECTORS: 8, fields.WEIGHT: 9}])
    first = int(slots.KeyScoresPointer.LAYERS)
    assert made == {first: 7, first + 2: 8, first + 3: 9}


def test_every_kind_has_names_of_its_arguments() -> None:
    assert slots.NAMES.keys() == set(codes.Kind)


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
        (lambda text: text.replace("SUB = 1", "SUB = 0"), r"the same number in \[op\]"),
        (lambda text: text.replace("RECURRENT = 23", "RECURRENT = 24"), r"\[kind\] are not consecutive from 0"),
        (lambda text: text.replace("[fold]", "[folds]"), "sections"),
        (lambda text: text.replace('kinds = ["FM"]', "kinds = []"), r"\[slots\] names the kinds"),
        (lambda text: text.replace('"STRIDE", "LIMIT"', '"STRIDE", "STRIDE"'), r"\[slots.take\] ints"),
        (lambda text: text.replace('"COUNT", "PROGRAM..."', '"PROGRAM...", "COUNT"'), r"\[slots.elements\] ints"),
        (lambda text: text.replace("VIEWS = 8", "VIEWS = 3"), r"\[slots.attention\] views has more names"),
    ],
)
def test_a_table_that_contradicts_itself_is_an_error(
    change: object, message: str, tmp_path: Path, generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "codes.toml"
    changed.write_text(change(generate.TABLE.read_text()))  # type: ignore[operator]
    monkeypatch.setattr(generate, "TABLE", changed)
    with pytest.raises(ValueError, match=message):
        generate.files()
