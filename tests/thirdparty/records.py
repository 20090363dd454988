"""The records of the last whole run, in a file: the page is written from them, and tests compare each model with its
record."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from examine import Outcome

FILE = Path(__file__).parent / "records.json"


@dataclass(frozen=True)
class Record:
    """The record of one model.

    Attributes:
        captured: Whether capture succeeded.
        backend: The backend of the compiled model.
        left: Operator -> how often torch runs it in the compiled model.
        operators: The number of operators of the compiled model.
        refused: Batch -> the error of the model itself.
        notices: The notices of capture, without errors of the model itself.
        ratios: Batch -> time of the compiled model over the time of eager, if it was measured.
        eager_kept: Whether do-no-harm kept the model itself.
    """

    captured: bool
    backend: str = ""
    left: dict[str, int] = field(default_factory=dict)
    operators: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    eager_kept: bool = False

    @property
    def left_count(self) -> int:
        """The number of operators that torch runs."""
        return sum(self.left.values())

    @property
    def share(self) -> float:
        """The share of the operators that torch runs."""
        return self.left_count / max(self.operators, 1)


def record_of(outcome: Outcome) -> Record:
    """Makes the record of an outcome."""
    return Record(
        outcome.captured,
        outcome.backend,
        dict(Counter(name for name, _ in outcome.left)),
        outcome.operators,
        {str(batch): text for batch, text in outcome.refused.items()},
        [note for note in outcome.notices if "itself refuses" not in note],
        {str(batch): round(ratio, 2) for batch, ratio in outcome.ratios.items()},
        outcome.eager_kept,
    )


def load(file: Path = FILE) -> dict[str, Record]:
    """Label -> record."""
    return {label: Record(**held) for label, held in json.loads(file.read_text()).items()}


def save(records: dict[str, Record], file: Path = FILE) -> None:
    """Writes the file."""
    file.write_text(json.dumps({label: asdict(record) for label, record in records.items()}, indent=1) + "\n")
