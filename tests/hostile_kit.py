"""Malicious changes of a saved model, and the entries that they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Change = Callable[[dict[str, Any]], Any]


def calls(document: dict[str, Any], target: str = "") -> list[dict[str, Any]]:
    return [n for n in document["nodes"] if n["op"] == "call_function" and target in n["target"]]


def edit(where: Callable[[dict[str, Any]], Any], key: Any, value: Any) -> Change:
    """A change of one entry of a document."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        where(document)[key] = value
        return document

    return change


def first_call(document: dict[str, Any]) -> dict[str, Any]:
    return calls(document)[0]


def lookup(document: dict[str, Any]) -> list[Any]:
    """The arguments of the grouped lookup."""
    found: list[Any] = calls(document, "grouped_lookup")[0]["args"]
    return found


def features(document: dict[str, Any]) -> list[int]:
    """Its features: table, ids, dim, output, column, length, offsets, segment, segments, last, weights, pooling, padding, base, bits."""
    found: list[int] = lookup(document)[5]["list"]
    return found


def signature(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["signature"]
    return found
