"""Outcomes that test processes share."""

from __future__ import annotations

from pathlib import Path

from examine import Outcome
from shared_outcomes import SharedOutcomes


def test_a_model_is_examined_once_and_every_process_reads_the_same(tmp_path: Path) -> None:
    outcome = Outcome("library/model", None, {1: 0.0, 64: 1e-7}, {2: "no squeeze"}, ("a notice",))
    examined = []

    def examine() -> Outcome:
        examined.append(outcome.label)
        return outcome

    for _ in range(2):
        assert SharedOutcomes(tmp_path / "outcomes").get(outcome.label, examine) == outcome
    assert examined == [outcome.label]
