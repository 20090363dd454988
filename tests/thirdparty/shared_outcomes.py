"""Outcomes that the test processes of a run share: a model is examined by the process that asks first, the others read what it found."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

from examine import Outcome


class SharedOutcomes:
    """A folder with one JSON file for each model that was examined."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, label: str, examine: Callable[[], Outcome]) -> Outcome:
        """The outcome of a model, examined now if no process has done so before."""
        path = self._folder / f"{label.replace('/', '-')}.json"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps(dataclasses.asdict(examine())))
            staged.replace(path)
        return _decoded(json.loads(path.read_text()))


def _decoded(fields: dict[str, object]) -> Outcome:
    """An outcome from its JSON form, in which batch sizes are text and tuples are lists."""
    plain = Outcome(**fields)  # type: ignore[arg-type]
    return dataclasses.replace(
        plain,
        differences={int(batch): value for batch, value in plain.differences.items()},
        refused={int(batch): text for batch, text in plain.refused.items()},
        notices=tuple(plain.notices),
    )
