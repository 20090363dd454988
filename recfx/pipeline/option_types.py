"""Checks the options of passes against the annotations of their fields."""

from __future__ import annotations

import dataclasses
import numbers
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from recfx.errors import PipelineError

#: The annotation of a field whose own annotation cannot be evaluated: any value fits.
_ANYTHING = Any

#: Annotation of a number -> the type that values must have, which includes NumPy's numbers.
_NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}


def annotations_of(cls: type) -> dict[str, Any]:
    """The annotation of each option of a pass; `Any` for an annotation that exists only for type checkers."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            found[field.name] = _evaluated(cls, field.type) if isinstance(field.type, str) else field.type
    return found


def _evaluated(cls: type, text: str) -> Any:
    for base in cls.__mro__:
        module = sys.modules.get(base.__module__)
        try:
            return eval(text, dict(vars(module)) if module is not None else {}, dict(vars(base)))
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue
    return _ANYTHING


def as_annotated(cls: type, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Converts the options of a text to the types of their annotations: a list becomes a tuple if a tuple is expected.

    Args:
        cls: The class of the pass.
        options: Option name -> value.
        name: The name of the pass, for errors.

    Raises:
        PipelineError: Values of other types. The message lists all.
    """
    annotations = annotations_of(cls)
    values = {key: _sequence(value, annotations.get(key, _ANYTHING)) for key, value in options.items()}
    require_annotated(cls, values, name)
    return values


def require_annotated(cls: type, options: Mapping[str, Any], name: str) -> None:
    """Raises `PipelineError` that lists each option whose value does not have the type of its annotation."""
    annotations = annotations_of(cls)
    problems = [
        f"option {key} takes {_words(annotations[key])}, got {value!r}"
        for key, value in options.items()
        if key in annotations and not _fits(value, annotations[key])
    ]
    if problems:
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        wrong = next(key for key, value in options.items() if not _fits(value, annotations.get(key, _ANYTHING)))
        default = defaults[wrong]
        example = "VALUE" if default is dataclasses.MISSING else default
        raise PipelineError(
            "; ".join(problems), where=name, hint=f"write {name}{{{wrong}={example}}} with a value of that type"
        )


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value has the type of an annotation. An int is a float; a bool is neither."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin is tuple:
        return isinstance(value, tuple) and _parts_fit(value, arguments)
    if isinstance(origin, type):
        return isinstance(value, origin) and _elements_fit(value, arguments)
    if annotation is _ANYTHING or not isinstance(annotation, type):
        return True
    if annotation in _NUMBERS:
        return isinstance(value, _NUMBERS[annotation]) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _parts_fit(value: tuple[Any, ...], arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(part, arguments[0]) for part in value)
    return len(value) == len(arguments) and all(map(_fits, value, arguments))


def _elements_fit(value: Any, arguments: tuple[Any, ...]) -> bool:
    if isinstance(value, Mapping) and len(arguments) == 2:
        return all(_fits(key, arguments[0]) and _fits(held, arguments[1]) for key, held in value.items())
    if isinstance(value, list | set | frozenset) and len(arguments) == 1:
        return all(_fits(part, arguments[0]) for part in value)
    return True


def _sequence(value: Any, annotation: Any) -> Any:
    """A list as a tuple if the annotation allows tuples but not lists; any other value as it is."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = {typing.get_origin(part) or part for part in parts}
    return tuple(value) if isinstance(value, list) and tuple in kinds and list not in kinds else value


def _words(annotation: Any) -> str:
    """The text of an annotation, as in source code."""
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
