"""Comments, docstrings, messages and documents are plain technical English, and messages use one term for one thing."""

from __future__ import annotations

import re

import pytest

from tests.words_kit import Text, cpp_texts, markdown_texts, python_texts, texts

#: Phrases that hide subject, verb or object -> what to write in their place.
PHRASES = {
    r"(?<!\bthere )\b(is|are|was|were|be) no (?!longer\b|more\b|less\b|fewer\b|larger\b|such\b|matter\b)[a-z]+": "'is not a ...'",
    r"\bas people (write|wrote)\b": "'in models', 'the spellings of'",
    r"\bnext to nothing\b": "'almost nothing'",
    r"\bwhy (there|it) (is|shall be) none\b": "'why a ... is not a ...'",
    r"\bof which none\b": "'that do not'",
    r"\basks? leave\b": "'asks whether ... may'",
    r"\bto be had\b": "'available', or who provides it",
    r"\bbesides\b": "'also' or 'in addition to'",
    r"\bthere (is|are) none\b": "the name of what is absent",
    r"\b(is|are) left to (torch|eager)\b": "'torch runs it'",
    r"\b(what|that|which|it|they|all) comes? of\b": "'the result of', 'computed from'",
    r"\bwhat(ever)? joins\b": "the name of the thing",
    r"\bis not to be\b": "'must not be'",
    r"\bwould have to be\b": "what happens instead",
    r"\bnothing but\b": "'only'",
    r"\b(None|-1) without(?=[.;,:)]|$)": "'None without one', or when it is None",
    r"\bgoes by\b": "'depends on'",
    r"\b(is|are|has) to have\b": "'must have'",
    r"\bwhat to say of\b": "'notices about'",
    r"\btakes? for no\b": "'does not accept as'",
    r"(?<!would )\b(has|have) to be\b": "'must be', or who does it",
    r"\bwhat (came|becomes?) of\b": "'the result of', 'the verdict on'",
    r"\bwhat tests\b": "'helpers of the tests of'",
    r"\bthose of (it|them)\b": "the name of the things",
    r"\bat an end\b": "'has ended'",
    r"\blies? evenly\b": "'is evenly spaced'",
    r"\b(can|could) be had\b": "'is available', or who provides it",
    r"\b(and the|(and|or) (its|their)) (like|kin)\b": "the names of the things",
    r"\bif need be\b": "'if necessary'",
    r"\bfirst asked for\b": "'at its first use'",
    r"\bthe road\b": "'the stages'",
}

#: Words that no text uses -> the term of the glossary.
GLOSSARY = {
    r"\bmini-?batch(es)?\b": "batch",
    r"\bembedding matri(x|ces)\b": "table",
    r"\bfully.connected\b": "linear",
    r"\blook-?up tables?\b": "table",
    r"\buser side\b": "request",
    r"\bitem side\b": "candidate",
}


def found(patterns: dict[str, str], text: Text) -> list[str]:
    """The places of a text that hold one of the patterns, as messages."""
    return [
        f"{text.file}:{text.line}: {match.group()!r}: write {advice}: ...{text.content[max(0, match.start() - 40) : match.end() + 30]}..."
        for pattern, advice in patterns.items()
        for match in re.finditer(pattern, text.content, re.IGNORECASE)
    ]


#: The texts of this file are the phrases themselves.
_OWN = "tests/test_words.py"


@pytest.fixture(scope="module")
def project() -> list[Text]:
    return [text for text in texts() if text.file != _OWN]


@pytest.mark.parametrize("patterns", [PHRASES, GLOSSARY], ids=["phrases", "glossary"])
def test_texts_of_the_project(project: list[Text], patterns: dict[str, str]) -> None:
    faults = [fault for text in project for fault in found(patterns, text)]
    assert not faults, f"{len(faults)} places\n" + "\n".join(faults)


def test_the_texts_are_those_of_all_rooms(project: list[Text]) -> None:
    rooms = {text.file.split("/")[0] for text in project}
    assert rooms >= {"recfx", "passes", "targets", "benchmarks", "tests", "docs", "README.md"}
    assert {text.file.rpartition(".")[2] for text in project} == {"py", "cpp", "h", "inl", "md"}
    assert len(project) > 10_000


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("the weight is no matrix", PHRASES),
        ("The gates\nare no softmax", PHRASES),
        ("what is needed besides the program", PHRASES),
        ("its result would have to be copied", PHRASES),
        ("shuffled mini-batches", GLOSSARY),
        ("a fully connected layer", GLOSSARY),
    ],
)
def test_a_fault_is_found_in_every_kind_of_text(text: str, patterns: dict[str, str]) -> None:
    lines = text.splitlines()
    python = "".join(f"# {line}\n" for line in lines)
    cpp = "int a;\n" + "".join(f"// {line}\n" for line in lines) + "int b;"
    for kind in (
        python_texts("a.py", python),
        python_texts("a.py", f"raise ValueError({text!r})"),
        python_texts("a.py", f"raise ValueError(f{text!r})"),
        python_texts("a.py", f"raise ValueError(f{text + '{x}'!r})"),
        python_texts("a.py", f'def f():\n    """{text}."""\n'),
        cpp_texts("a.cpp", cpp),
        cpp_texts("a.cpp", f"/* {text} */"),
        markdown_texts("a.md", f"# Title\n\n{text}\n"),
    ):
        assert sum(len(found(patterns, piece)) for piece in kind) == 1


@pytest.mark.parametrize(
    "text",
    ["there is no tensor of that name", "it is no longer read", "they are no larger", "the batch", "`x is no y`"],
)
def test_plain_texts_have_no_fault(text: str) -> None:
    for piece in markdown_texts("a.md", text):
        assert not found(PHRASES, piece)
        assert not found(GLOSSARY, piece)


def test_places_name_the_line() -> None:
    source = "x = 1\n\n# a matrix\n# is no vector\n"
    assert [(text.line, text.content) for text in python_texts("a.py", source)] == [(3, "a matrix is no vector")]
    source = 'x = \'# a\', """\\" #\n# b"""  # one\ny = f\'{x}#\'  # two\nz = r\'\\\\\'  # three\n'
    assert [(t.line, t.content) for t in python_texts("a.py", source) if t.content[0] in "ot"] == [(2, "one two three")]
    assert [t.line for t in cpp_texts("a.cpp", "int a;\n// one\nint b;\n// two\n")] == [2, 4]
    assert [t.line for t in markdown_texts("a.md", "one\n\n```\nx is no y\n```\n\ntwo\n")] == [1, 7]
