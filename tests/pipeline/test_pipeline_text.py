"""Pipelines as text, pass declarations, the registry, and validation as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import chain

import recfx
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pass, PassSpec, Pipeline, register, registered
from recfx.pipeline.text import parse_pipeline
from recfx.pipeline.validate import require_valid, violations


@register
@dataclass(frozen=True)
class TakesAnything(Pass):
    spec = PassSpec("takes-anything", "Has options of every kind.")
    number: float = 0.5
    thing: Any = None

    def run(self, program: Any, ctx: Any) -> None:
        return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(number=st.floats(allow_nan=False, allow_infinity=False), thing=VALUES)
def test_text_round_trips(number: float, thing: Any) -> None:
    made = TakesAnything(number=number, thing=thing)
    pipeline = Pipeline([made, "canonicalize", made])
    again = Pipeline(str(pipeline))
    assert again == pipeline
    assert str(again) == str(pipeline)
    (first, _, _) = again.passes
    assert type(first.options()["number"]) is float or math.isclose(first.options()["number"], number)


def test_defaults_are_left_out_and_spaces_do_not_matter() -> None:
    assert str(TakesAnything()) == "takes-anything"
    assert Pipeline(" canonicalize ,\n takes-anything { number = 2 , thing=word } ") == Pipeline(
        ["canonicalize", TakesAnything(number=2, thing="word")]
    )
    assert len(Pipeline("")) == 0
    assert str(Pipeline(DEFAULT_PIPELINE)) == DEFAULT_PIPELINE


@given(
    number=st.floats(allow_nan=False),
    thing=st.lists(st.floats(allow_nan=False) | st.sampled_from(["inf", "nan", "none", "-inf"])),
)
def test_infinities_and_words_like_them_round_trip(number: float, thing: Any) -> None:
    pipeline = Pipeline([TakesAnything(number=number, thing=thing), TakesAnything(thing="inf")])
    assert Pipeline(str(pipeline)) == pipeline


def test_nan_round_trips() -> None:
    text = "takes-anything{number=nan, thing=[nan, -inf, true]}"
    (made,) = Pipeline(text).passes
    assert isinstance(made, TakesAnything)
    assert math.isnan(made.number)
    assert math.isnan(made.thing[0])
    assert made.thing[1:] == [-math.inf, True]
    assert str(Pipeline([made])) == "takes-anything{number=nan, thing=[nan, -inf, True]}"
    assert str(Pipeline(str(Pipeline([made])))) == str(Pipeline([made]))


BAD_TEXTS = {
    "canonicalise": "did you mean canonicalize",
    "takes-anything{number}": "has no value",
    "takes-anything{colour=1}": "has no option colour",
    "takes-anything{number=1": "not closed",
    "takes-anything}": "unmatched",
    "takes-anything{thing='a}": "not closed",
    "canonicalize,,canonicalize": "empty name",
    "takes-anything{thing=1+}": "is not a value",
    "takes-anything{thing={[1]: 2}}": "is not a value",
    "takes-anything{number=1, number=2}": "'number' is given twice",
    "takes-anything{number=1} x": "text after",
}


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_bad_texts(text: str) -> None:
    with pytest.raises(recfx.PipelineError, match=BAD_TEXTS[text]):
        parse_pipeline(text)


def test_every_problem_of_a_text_is_listed() -> None:
    with pytest.raises(recfx.PipelineError) as caught:
        Pipeline("no-such-pass,takes-anything{colour=1},nor-this")
    for part in ("no-such-pass", "colour", "nor-this"):
        assert part in str(caught.value)


def test_what_is_no_pass_is_refused() -> None:
    with pytest.raises(recfx.PipelineError, match="is not a pass"):
        Pipeline([42])  # type: ignore[list-item]


def test_declarations_are_checked() -> None:
    with pytest.raises(recfx.PipelineError, match="kebab-case"):
        PassSpec("Fold_It", "x")
    with pytest.raises(recfx.PipelineError, match="unknown needs"):
        PassSpec("fold-it", "x", needs=frozenset({"luck"}))


def test_two_passes_cannot_share_a_name() -> None:
    class Other(TakesAnything):
        pass

    with pytest.raises(recfx.PipelineError, match="two passes are called 'takes-anything'"):
        register(Other)
    assert register(TakesAnything) is TakesAnything
    assert registered()["takes-anything"] is TakesAnything


def make(name: str, **spec: Any) -> Pass:
    cls = type(name, (Pass,), {"spec": PassSpec(name, "A test pass.", **spec), "run": lambda self, program, ctx: None})
    made: Pass = cls()
    return made


def test_order_is_law_and_every_violation_is_listed() -> None:
    fuse = make("fuse", requires=frozenset({"canonical"}), establishes=frozenset({"fused"}))
    quantise = make(
        "quantise",
        requires=frozenset({"fused"}),
        invalidates=frozenset({"canonical"}),
        establishes=frozenset({"quantised"}),
    )
    hoist = make("hoist", forbids=frozenset({"quantised"}))
    tune = make("tune", needs=frozenset({"calibration"}))
    clean = make("clean", establishes=frozenset({"canonical"}))
    assert violations([clean, fuse, quantise], {"functional"}) == []
    found = violations([fuse, clean, quantise, hoist, tune, fuse, clean, clean], {"functional"})
    assert len(found) == 5
    assert "which only clean establishes, later in the pipeline; move clean before it" in found[0]
    assert "hoist (number 4) must not run once the program is 'quantised'" in found[1]
    assert "tune (number 5) needs calibration" in found[2]
    assert "fuse (number 6) requires 'canonical', which only clean establishes" in found[3] or "invalidated" in found[3]
    assert "twice in a row" in found[4]
    assert violations([tune], {"functional"}, {"calibration"}) == []
    assert "which no pass in the pipeline establishes" in violations([quantise], {"functional"})[0]


def test_a_backslash_at_the_end_of_an_option_round_trips() -> None:
    pipeline = Pipeline([TakesAnything(thing="a\\"), "canonicalize"])
    assert Pipeline(str(pipeline)) == pipeline


@register
@dataclass(frozen=True)
class TakesLists(Pass):
    spec = PassSpec("takes-lists", "Has an option that must be given, and one whose default is made.")
    must: int
    made: tuple[int, ...] = field(default_factory=lambda: (1, 2))

    def run(self, program: Any, ctx: Any) -> None:
        return None


def test_defaults_that_are_made_are_left_out_too() -> None:
    assert str(TakesLists(3)) == "takes-lists{must=3}"
    assert str(TakesLists(3, (1,))) == "takes-lists{must=3, made=(1,)}"
    assert Pipeline("takes-lists{must=3, made=(1, 2)}") == Pipeline([TakesLists(3)])
    assert TakesLists(3).options() == {"must": 3, "made": (1, 2)}
    with pytest.raises(recfx.PipelineError, match="'takes-lists' refuses its options"):
        Pipeline("takes-lists")
    with pytest.raises(recfx.PipelineError, match=r"(?s)has no option a, b.*its options: must, made"):
        Pipeline("takes-lists{a=1, must=2, b=3}")


@pytest.mark.parametrize(
    "word",
    [
        "a",
        "a-b",
        "a.b_c9",
        "_a",
        "9a",
        "-a",
        "a b",
        "true",
        "True",
        "None",
        "none",
        "nan",
        "inf",
        "",
        "a,b",
        "{",
        "it's",
        'say "it"',
        "a\\",
        "\\'",
        "'",
    ],
)
def test_words_round_trip_with_quotes_where_they_need_them(word: str) -> None:
    pipeline = Pipeline([TakesAnything(thing=word), TakesAnything(thing=[word, [word]]), "canonicalize"])
    assert Pipeline(str(pipeline)) == pipeline
    bare = word in ("a", "a-b", "a.b_c9", "_a")
    assert str(TakesAnything(thing=word)) == f"takes-anything{{thing={word if bare else repr(word)}}}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, (2, {'a': [3]})]", [1, (2, {"a": [3]})]),
        ("'a,b}'", "a,b}"),
        ('"a\\"b"', 'a"b'),
        ("'a\\\\'", "a\\"),
        ("-1.5e3", -1500.0),
        ("none", None),
        ("[true, false, inf]", [True, False, math.inf]),
        ("word", "word"),
    ],
)
def test_values_of_options(text: str, value: Any) -> None:
    (made, last) = Pipeline(f"takes-anything{{thing={text}, number=2}}, canonicalize").passes
    assert made.options() == {"number": 2, "thing": value}
    assert str(last) == "canonicalize"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a]", "unmatched ']'"),
        ("takes-anything{thing=(1}", "not closed"),
        ("takes-anything{thing=1}}", "unmatched '}'\n.*character 23"),
        (",", "empty name"),
        ("canonicalize,", "empty name"),
        ("takes-anything{number=1,}", "empty name"),
        ("takes-anything{=1}", "has no option"),
        ("takes-anything{a=b c}", "'b c' is not a value"),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(recfx.PipelineError, match=message):
        parse_pipeline(text)


def test_every_violation_says_what_would_mend_it() -> None:
    makes = make("makes", establishes=frozenset({"a"}))
    again = make("again", establishes=frozenset({"a"}))
    loses = make("loses", invalidates=frozenset({"a"}))
    wants = make("wants", requires=frozenset({"a"}), idempotent=False)
    tune = make("tune", needs=frozenset({"fine-tuning", "labels"}))
    held = {"functional"}
    assert violations([makes, wants, wants], held) == []
    assert violations([wants], held) == ["wants (number 1) requires 'a', which no pass in the pipeline establishes"]
    assert violations([wants], {*held, "a"}) == []
    assert violations([wants, makes, again], held) == [
        "wants (number 1) requires 'a', which only makes establishes, later in the pipeline; move makes before it"
    ]
    assert violations([makes, again, loses, wants], held) == [
        "wants (number 4) requires 'a', which again established but a pass in between invalidated"
    ]
    assert violations([makes, loses, makes, wants], held) == []
    assert violations([tune], held, ["labels"]) == [
        "tune (number 1) needs fine-tuning; pass resources={'fine-tuning': ...} to Pipeline.run"
    ]
    Pipeline([tune]).run(chain(), resources={"labels": [], "fine-tuning": []})  # as the message says
    towers = make("towers", needs=frozenset({"catalogue"}))
    assert violations([towers], held) == [
        "towers (number 1) needs catalogue; pass constant_inputs= and catalogue=True to optimize"
    ]
    early = make("early", forbids=frozenset({"a"}))
    assert violations([early], {*held, "a"}) == [
        "early (number 1) must not run once the program is 'a'; "
        "the given program has this property: run the pass on an earlier program"
    ]
    assert violations([makes, makes], held) == ["makes (number 2) stands twice in a row; the second does nothing"]
    assert violations([makes, again, makes], held) == []
    with pytest.raises(recfx.PipelineError) as caught:
        require_valid([wants, tune], held)
    assert caught.value.what.startswith("the pipeline cannot run as written: 3 violation(s)\n  - wants")
    assert caught.value.where == "wants,tune"
    require_valid([makes, wants], held)
    Pipeline([makes, wants]).validate(chain())
    with pytest.raises(recfx.PipelineError, match="needs labels"):
        Pipeline([tune]).validate(chain(), {"fine-tuning": []})
    Pipeline([tune]).validate(chain(), {"fine-tuning": [], "labels": []})


def test_words_in_lists_are_texts() -> None:
    plain = Pipeline("prune-channels{kinds=[channels, columns]}")
    assert plain == Pipeline("prune-channels{kinds=['channels', 'columns']}")
    assert Pipeline(str(plain)) == plain
