"""Pipelines as text: `"fold-batchnorm,prune-channels{ratio=0.5, keep=[4, 8]}"`, parsed and printed without loss."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from recfx.errors import PipelineError, RecfxError
from recfx.pipeline.base import BARE_WORD, NAMED_VALUES, Pass
from recfx.pipeline.option_types import as_annotated
from recfx.pipeline.registry import find


def parse_pipeline(text: str) -> list[Pass]:
    """The passes a text names, with their options.

    Raises:
        PipelineError: Unbalanced braces, an unknown pass or option, or an option value that does not fit. The message lists all faults.
    """
    passes: list[Pass] = []
    problems: list[PipelineError] = []
    for piece in _split(text):
        try:
            passes.append(_parse_pass(piece))
        except PipelineError as error:
            problems.append(error)
    if problems:
        faults, steps = [e.in_one_line for e in problems], [e.hint for e in problems]
        raise PipelineError(
            "; ".join(faults), where=f"pipeline {text!r}", hint="; ".join(dict.fromkeys(steps))
        ) from problems[0]
    return passes


def _split(text: str) -> list[str]:
    """Splits at the commas outside braces, brackets and quotes.

    Raises:
        PipelineError: A bracket or quote is not closed.
    """
    pieces, depth, start, quote = [], 0, 0, ""
    escaped = False
    for position, character in enumerate(text):
        was_escaped, escaped = escaped, False
        if quote:
            escaped = character == "\\" and not was_escaped
            quote = "" if character == quote and not was_escaped else quote
        elif character in "'\"":
            quote = character
        elif character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
            if depth < 0:
                raise PipelineError(
                    f"unmatched {character!r}",
                    where=f"pipeline {text!r}, character {position}",
                    hint="remove it, or open the bracket that it closes",
                )
        elif character == "," and depth == 0:
            pieces.append(text[start:position])
            start = position + 1
    if depth or quote:
        raise PipelineError(
            "a bracket or quote is not closed", where=f"pipeline {text!r}", hint="close it: name{option=[1, 2]}"
        )
    pieces.append(text[start:])
    stripped = [p.strip() for p in pieces]
    if stripped == [""]:
        return []
    if "" in stripped:
        raise PipelineError("an empty name between commas", where=f"pipeline {text!r}", hint="remove one of the commas")
    return stripped


def _parse_pass(piece: str) -> Pass:
    name, brace, rest = piece.partition("{")
    cls = find(name.strip())
    options: dict[str, Any] = {}
    if brace:
        if not rest.endswith("}"):
            raise PipelineError(
                f"text after the options of {name.strip()!r}: {piece!r}", hint="put a comma behind the closing brace"
            )
        for item in _split(rest[:-1]):
            key, equals, value = item.partition("=")
            if not equals:
                raise PipelineError(f"option {item!r} has no value", where=name.strip(), hint="write option=value")
            if key.strip() in options:
                raise PipelineError(
                    f"option {key.strip()!r} is given twice", where=name.strip(), hint="remove one of the two values"
                )
            options[key.strip()] = _parse_value(value.strip(), f"{name.strip()}{{{key.strip()}}}")
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    if unknown := options.keys() - known.keys():
        raise PipelineError(
            f"{name.strip()!r} has no option {', '.join(sorted(unknown))}",
            hint=f"its options: {', '.join(known) or 'none'}",
        )
    options = as_annotated(cls, options, name.strip())
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        taken = ", ".join(known) or "none"
        raise PipelineError(
            f"{name.strip()!r} refuses its options: {_what(error)}", hint=_hint(error) or f"its options: {taken}"
        ) from error


def _what(error: Exception) -> str:
    return error.what if isinstance(error, RecfxError) else str(error)


def _hint(error: Exception) -> str | None:
    return error.hint if isinstance(error, RecfxError) else None


class _Named(ast.NodeTransformer):
    """Replaces the names of `NAMED_VALUES` by their values, and other words by texts, also inside lists."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(NAMED_VALUES.get(node.id, node.id))


def _parse_value(text: str, place: str) -> Any:
    try:
        return ast.literal_eval(_Named().visit(ast.parse(text, mode="eval")))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        if BARE_WORD.fullmatch(text):
            return text
        raise PipelineError(
            f"{text!r} is not a value", where=place, hint="use numbers, true/false, words, quotes or [lists]"
        ) from error
