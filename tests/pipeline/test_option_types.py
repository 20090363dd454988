"""Options of passes are held to their annotations, in texts and in lists."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recfx
from recfx.pipeline import Pass, PassSpec, Pipeline, register, registered

if TYPE_CHECKING:
    from somewhere import Unknown


@register
@dataclass(frozen=True)
class TakesTypes(Pass):
    spec = PassSpec("takes-types", "Has options of many types.")
    shared: ClassVar[int] = 1
    whole: int = 1
    real: float = 0.5
    flag: bool = False
    word: str = "a"
    choice: Literal["left", "right"] = "left"
    maybe: int | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    names: list[str] | None = None
    table: dict[str, int] | None = None
    anything: Any = None
    elsewhere: Unknown = None

    def run(self, program: Any, ctx: Any) -> None:
        return None


RIGHT = [
    ("whole=3", 3),
    ("real=3", 3),
    ("real=-inf", float("-inf")),
    ("flag=true", True),
    ("word=b", "b"),
    ("word='3'", "3"),
    ("choice=right", "right"),
    ("maybe=none", None),
    ("maybe=2", 2),
    ("sizes=[4, 8]", (4, 8)),
    ("sizes=()", ()),
    ("pair=['b', 2]", ("b", 2)),
    ("names=['a', 'b']", ["a", "b"]),
    ("table={'a': 1}", {"a": 1}),
    ("anything=[1, 'a']", [1, "a"]),
    ("elsewhere=x", "x"),
]

WRONG = [
    ("whole=x", "whole takes int, got 'x'"),
    ("whole=true", "whole takes int, got True"),
    ("whole=1.5", "whole takes int, got 1.5"),
    ("real=word", "real takes float, got 'word'"),
    ("real=false", "real takes float, got False"),
    ("flag=1", "flag takes bool, got 1"),
    ("flag=yes", "flag takes bool, got 'yes'"),
    ("word=3", "word takes str, got 3"),
    ("choice=up", "got 'up'"),
    ("maybe=a", "got 'a'"),
    ("sizes=[4, 'a']", "got (4, 'a')"),
    ("sizes=4", "got 4"),
    ("pair=['b']", "got ('b',)"),
    ("names=[1]", "got [1]"),
    ("table={'a': 'b'}", "got {'a': 'b'}"),
]


@pytest.mark.parametrize(("text", "value"), RIGHT)
def test_values_of_the_annotated_type(text: str, value: Any) -> None:
    (made,) = Pipeline(f"takes-types{{{text}}}").passes
    held = made.options()[text.partition("=")[0]]
    assert held == value
    assert type(held) is type(value)
    assert Pipeline(str(Pipeline([made]))) == Pipeline([made])


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_values_of_another_type_are_refused(text: str, message: str) -> None:
    with pytest.raises(recfx.PipelineError) as caught:
        Pipeline(f"takes-types{{{text}}}")
    assert message in str(caught.value)
    name = text.partition("=")[0]
    assert f"write takes-types{{{name}=" in str(caught.value)


def test_all_wrong_values_are_listed() -> None:
    with pytest.raises(recfx.PipelineError) as caught:
        Pipeline("takes-types{whole=a, real=b},batch-selects{at_least=x}")
    for part in ("whole takes int, got 'a'", "real takes float, got 'b'", "at_least takes int, got 'x'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("options", [{"whole": "x"}, {"sizes": [1]}, {"flag": None}])
def test_passes_made_in_python_are_held_to_them_too(options: dict[str, Any]) -> None:
    with pytest.raises(recfx.PipelineError, match="takes-types"):
        Pipeline([TakesTypes(**options)])


def test_numbers_of_numpy_are_numbers() -> None:
    Pipeline([TakesTypes(whole=np.int64(3), real=np.float32(2.0))])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(n for n, c in registered().items() if c.__module__.startswith("recfx.passes.")))
def test_every_option_of_a_built_in_pass_is_held_to_its_type(name: str) -> None:
    cls = registered()[name]
    Pipeline([cls()])
    for option in (field for field in fields(cls) if field.init):
        wrong = "1.5" if isinstance(option.default, str) else "word"
        with pytest.raises(recfx.PipelineError, match=f"option {option.name} takes"):
            Pipeline(f"{name}{{{option.name}={wrong}}}")


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text() | st.none() | st.lists(st.integers()))
def test_a_value_is_taken_exactly_where_its_type_fits(value: Any) -> None:
    fits = {
        "whole": type(value) is int,
        "real": type(value) in (int, float),
        "flag": type(value) is bool,
        "word": type(value) is str,
        "maybe": value is None or type(value) is int,
        "names": value is None or value == [],
        "anything": True,
    }
    for option, right in fits.items():
        item = TakesTypes(**{option: value})
        if right:
            Pipeline([item])
        else:
            with pytest.raises(recfx.PipelineError):
                Pipeline([item])
