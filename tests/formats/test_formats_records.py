"""Values from JSON against declared types: what is accepted as what, and which error names which field."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from recfx.errors import ArtifactError
from recfx.formats.records import decode, fields, require


class Level(enum.Enum):
    LOW = "low"
    ONE = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    rows: int
    name: str = "x"
    known: bool = dataclasses.field(default=False, init=False)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    parts: tuple[Inner, ...] = ()
    sizes: list[int] = dataclasses.field(default_factory=list)


#: Name -> a type, a value from JSON, and what it becomes.
ACCEPTED: dict[str, tuple[Any, Any, Any]] = {
    "anything": (Any, {"a": [1]}, {"a": [1]}),
    "nothing": (None, None, None),
    "an integer": (int, 3, 3),
    "true": (bool, True, True),
    "a string": (str, "a", "a"),
    "a number": (float, 1.5, 1.5),
    "a whole number": (float, 3, 3.0),
    "infinity": (float, {"float": "inf"}, math.inf),
    "minus infinity": (float, {"float": "-inf"}, -math.inf),
    "the second of a union": (int | str, "a", "a"),
    "null of a union": (int | None, None, None),
    "a literal": (Literal["a", 1], 1, 1),
    "a member by its text": (Level, "low", Level.LOW),
    "a member by its number": (Level, 1, Level.ONE),
    "a list": (list[int], [1, 2], [1, 2]),
    "a sequence": (Sequence[float], [1, 2], [1.0, 2.0]),
    "a tuple of any length": (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    "an empty tuple": (tuple[int, ...], [], ()),
    "a pair": (tuple[int, str], [1, "a"], (1, "a")),
    "a dictionary": (dict[str, float], {"a": 1}, {"a": 1.0}),
    "a mapping": (Mapping[str, int], {"a": 1}, {"a": 1}),
    "a record": (Inner, {"rows": 2}, Inner(2)),
    "a record with a default": (Inner, {"rows": 2, "name": "y"}, Inner(2, "y")),
    "records inside": (
        Outer,
        {"inner": {"rows": 1}, "parts": [{"rows": 2}], "sizes": [3]},
        Outer(Inner(1), (Inner(2),), [3]),
    ),
}

#: Name -> a type, a value from JSON, and the text and the place of the error.
REFUSED: dict[str, tuple[Any, Any, str, str]] = {
    "true for an integer": (int, True, "expected an integer, got true or false", "v"),
    "one for true": (bool, 1, "expected true or false, got an integer", "v"),
    "a number for an integer": (int, 1.0, "expected an integer, got a number", "v"),
    "true for a number": (float, True, "expected a number, got true or false", "v"),
    "text for a number": (float, "inf", "expected a number, got a string", "v"),
    "another number": (float, {"float": "1"}, "expected a number, got an object", "v"),
    "a number and more": (float, {"float": "inf", "a": 1}, "expected a number, got an object", "v"),
    "null": (str, None, "expected a string, got null", "v"),
    "neither of a union": (int | str, None, "expected an integer, got null", "v"),
    "true for a literal": (Literal["a", 1], True, "expected one of 'a', 1, got True", "v"),
    "true for a member": (Level, True, "True is not one of 'low', 1", "v"),
    "another member": (Level, "high", "'high' is not one of 'low', 1", "v"),
    "an object for a list": (list[int], {}, "expected a list, got an object", "v"),
    "an element of a list": (list[int], [1, "a"], "expected an integer, got a string", "v[1]"),
    "an element of a tuple": (tuple[int, ...], [1, "a"], "expected an integer, got a string", "v[1]"),
    "an element of a pair": (tuple[int, str], [1, 2], "expected a string, got an integer", "v[1]"),
    "three for a pair": (tuple[int, str], [1, "a", 2], "expected 2 values, got 3", "v"),
    "one for a pair": (tuple[int, str], [1], "expected 2 values, got 1", "v"),
    "a value of a dictionary": (dict[str, int], {"a": "b"}, "expected an integer, got a string", "v.a"),
    "a missing field": (Inner, {"name": "x"}, "the key 'rows' is missing", "v"),
    "an unknown field": (Inner, {"rows": 1, "cols": 2}, "the key 'cols' is not known", "v"),
    "a field that is computed": (Inner, {"rows": 1, "known": True}, "the key 'known' is not known", "v"),
    "a field of a record inside": (
        Outer, {"inner": {"rows": 1}, "parts": [{"rows": "a"}]}, "expected an integer, got a string", "v.parts[0].rows"
    ),
    "a text of 98 letters": (Literal["a"], "b" * 98, f"expected one of 'a', got '{'b' * 98}'", "v"),
    "a text of 99 letters": (Literal["a"], "b" * 99, f"expected one of 'a', got '{'b' * 99} …", "v"),
    "a long name": (Inner, {"rows": 1, "c" * 101: 2}, f"the key '{'c' * 100}' is not known", "v"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_values_of_a_type(name: str) -> None:
    kind, value, wanted = ACCEPTED[name]
    found = decode(kind, value, "v")
    assert found == wanted
    assert type(found) is type(wanted)


def test_not_a_number() -> None:
    assert math.isnan(decode(float, {"float": "nan"}, "v"))


@pytest.mark.parametrize("name", REFUSED)
def test_values_of_another_type(name: str) -> None:
    kind, value, says, where = REFUSED[name]
    with pytest.raises(ArtifactError) as caught:
        decode(kind, value, "v")
    assert str(caught.value).splitlines()[0] == says
    assert caught.value.where == where


def test_the_keys_of_an_object() -> None:
    assert fields({"a": 1, "b": 2}, "v", ["a"], ["b", "c"]) == {"a": 1, "b": 2}
    for value, says in (
        ({"b": 2}, "'a' is missing"),
        ({"a": 1, "d": 2}, "'d' is not known"),
        ([], "expected an object, got a list"),
    ):
        with pytest.raises(ArtifactError, match=says):
            fields(value, "v", ["a"], ["b"])


def test_a_value_of_a_type_that_json_does_not_have() -> None:
    with pytest.raises(ArtifactError, match="expected an integer, got complex"):
        require(int, 1j, "v")
