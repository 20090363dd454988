"""Mutants that are equivalent to the source, with the reasons."""

from __future__ import annotations

from pathlib import Path

_LIST = Path(__file__).with_name("equivalent.txt")


def equivalent() -> dict[str, str]:
    """Key of a mutant -> why no test can notice it."""
    found: dict[str, str] = {}
    for line in _LIST.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.rpartition(" | ")
            found[key] = reason
    return found
