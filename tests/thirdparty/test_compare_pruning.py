"""recfx prunes models of other libraries that torch-pruning refuses or breaks.

The last test is a nightly one, since torch-pruning takes long on some models. It needs packages from outside: `make thirdparty`.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from compare_pruning import BREAKS, NOTHING, OTHER, PRUNES, REFUSES, Outcome, by_recfx, compared, of_exit, table
from corpus import BuiltModel, all_cases
from torch import Tensor, nn

#: Models on which the two differ, at least.
ONLY_RECFX = 80


def test_channels_columns_and_neither_are_told_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    def inputs(batch: int, rng: object) -> tuple[tuple[Tensor], dict[str, object]]:
        return (nn.init.normal_(Tensor(batch, 4)),), {}

    assert by_recfx(BuiltModel(Two().eval(), inputs)).verdict == PRUNES  # type: ignore[arg-type]
    assert by_recfx(BuiltModel(nn.Linear(4, 1).eval(), inputs)).verdict == NOTHING  # type: ignore[arg-type]

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.last = nn.Embedding(9, 4), nn.Linear(4, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.rows(ids))

    def rows(batch: int, rng: Any) -> tuple[tuple[Tensor], dict[str, object]]:
        return (torch.randint(0, 9, (batch,), generator=rng),), {}

    assert by_recfx(BuiltModel(Table().eval(), rows)).verdict == OTHER


def test_a_process_that_a_limit_stopped_is_told_from_one_with_a_fault() -> None:
    assert of_exit(-signal.SIGXCPU).verdict == REFUSES
    with pytest.raises(RuntimeError, match="exit code 1"):
        of_exit(1)


def test_the_table_counts_all_outcomes_and_names_what_only_recfx_prunes() -> None:
    found = {
        "a/X": (Outcome(PRUNES), Outcome(REFUSES, "KeyError: a | b")),
        "a/Y": (Outcome(PRUNES), Outcome(PRUNES)),
        "a/Z": (Outcome(NOTHING), Outcome(BREAKS, "outputs")),
    }
    text = table(found)
    assert "| prunes | 1 | 0 | 1 | 0 |" in text
    assert "| columns and parts | 0 | 0 | 0 | 0 |" in text
    assert "| a/X | refuses: KeyError: a / b |" in text
    assert "a/Z" not in text


@pytest.mark.nightly
def test_recfx_prunes_what_torch_pruning_does_not() -> None:
    pytest.importorskip("torch_pruning", reason="make thirdparty")
    cases = [case for case in all_cases() if case.installed]
    if len(cases) < 150:
        pytest.skip("the libraries are not installed: make thirdparty")
    found = compared(cases)
    only = [
        label for label, (own, other) in found.items() if own.verdict == PRUNES and other.verdict in (REFUSES, BREAKS)
    ]
    assert len(only) >= ONLY_RECFX, table(found)
    assert all(own.verdict != BREAKS for own, _ in found.values()), table(found)
