"""Draws samples of mutants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.imports import ROOT
from tests.mutants.mutate import Mutant, mutants_of


def draw(files: Sequence[str], sample: int | None, seed: int) -> list[Mutant]:
    """All mutants of files, or a sample in which all mutants are equally likely.

    The rank of a mutant in the draw does not depend on other lines and files, so that a sample stays nearly the same when they change.
    """
    mutants = [mutant for file in files for mutant in mutants_of(ROOT, file)]
    if sample is None or sample >= len(mutants):
        return mutants
    seen: dict[str, int] = {}
    ranks = {}
    for mutant in mutants:
        seen[mutant.key] = seen.get(mutant.key, 0) + 1
        ranks[mutant] = hashlib.sha256(f"{seed} {mutant.key} {seen[mutant.key]}".encode()).digest()
    return sorted(sorted(mutants, key=ranks.__getitem__)[:sample], key=lambda m: (m.file, m.line, m.what))


def of_each_room(files: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """A sample of a number of mutants of each room."""
    rooms: dict[str, list[str]] = {}
    for file in files:
        rooms.setdefault(str(Path(file).parent), []).append(file)
    return [mutant for room in rooms.values() for mutant in draw(room, number, seed)]
