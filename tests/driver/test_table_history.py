"""The tables of a model are followed through the passes: those that take new rows, and the reason for each that takes none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_rows_kit import COLUMNS, ROWS, Tables, inputs, optimize
from torch import nn

import recfx
from recfx.driver.table_history import TableRecord

IDS = torch.arange(6)


def _records(model: nn.Module, example: Any, **options: Any) -> dict[str, TableRecord]:
    fast = optimize(model.eval(), example, **options)
    return {record.names[0]: record for record in fast.tables}


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, 32),
        ({"precision": "bf16"}, 16),
        ({"precision": "int8"}, 8),
        ({"extra_passes": {"after:mlp": "quantize-tables{bits=4}"}}, 4),
        ({"extra_passes": {"after:mlp": "quantize-tables{bits=16,format=fp16}"}}, 16),
        ({"target": "eager"}, 32),
    ],
)
def test_tables_that_only_lookups_read_take_new_rows(options: dict[str, Any], bits: int) -> None:
    found = _records(Tables(), inputs(), **options)
    assert list(found) == ["users.weight", "items.weight", "tags.weight"]
    for record in found.values():
        assert (record.rows, record.columns, record.bits, record.refused) == (ROWS, COLUMNS, bits, "")
        assert record.state


def test_a_tied_table_has_all_its_names() -> None:
    model = Tables()
    model.items.weight = model.users.weight
    found = _records(model, inputs())
    assert found["users.weight"].names == ("users.weight", "items.weight")
    assert len(found) == 2


class Folded(nn.Module):
    """A linear behind a lookup."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ROWS, COLUMNS)
        self.head = nn.Linear(COLUMNS, 2)

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.items(item))
        return found


class Equal(nn.Module):
    """Two tables of the same content."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Embedding(ROWS, COLUMNS), nn.Embedding(ROWS, COLUMNS)
        self.two.load_state_dict(self.one.state_dict())

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.one(item) - 2 * self.two(item + 1)
        return found


class ReadWhole(Folded):
    """A table that scores are computed against."""

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.items(item).sin() @ self.items.weight.T
        return found


class Constant(nn.Module):
    """Rows that are looked up at positions that no input gives."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(ROWS, COLUMNS), nn.Embedding(4, COLUMNS)

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.items(item).unsqueeze(1).tanh() + self.places(torch.arange(4))
        return found


class Slices(nn.Module):
    """Two tables in one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(2 * ROWS, COLUMNS))
        self.part = nn.Parameter(self.both.detach()[:ROWS])

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        first, second = nn.functional.embedding(item, self.both), nn.functional.embedding(item, self.part)
        return first.sin() + second.cos()


REFUSED: dict[str, tuple[type[nn.Module], str, dict[str, Any], str]] = {
    "folded": (Folded, "items.weight", {}, "the pass fold-linear-into-table computed other weights"),
    "merged away": (Equal, "two.weight", {}, "no longer reads it, since the pass merge-tables"),
    "merged into": (Equal, "one.weight", {}, "merge-tables made it serve as another table"),
    "read whole": (ReadWhole, "items.weight", {}, "the model reads it whole, in"),
    "constant ids": (Constant, "places.weight", {}, "the pass fold-constants computed other weights"),
    "shared memory": (Slices, "both", {}, "shares its memory"),
    "shared memory, the part": (Slices, "part", {}, "shares its memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_of_which_more_is_known_at_compile_time_are_refused_with_the_pass(case: str) -> None:
    kind, name, options, reason = REFUSED[case]
    model = kind()
    found = {n: r for r in optimize(model.eval(), (IDS,), **options).tables for n in r.names}
    assert reason in found[name].refused
    fast = optimize(model, (IDS,), **options)
    with pytest.raises(recfx.InputError, match=reason) as caught:
        fast.update_tables({name: (torch.tensor([1]), torch.zeros(1, COLUMNS))})
    assert "refresh" in str(caught.value)


def test_a_table_of_pruned_channels_is_refused() -> None:
    fast = optimize(Tables().eval(), extra_passes={"after:fold": "prune-channels{ratio=0.5}"})
    pruned = [r for r in fast.tables if "prune-channels computed" in r.refused]
    with_all_columns = [r for r in fast.tables if not r.refused]
    assert len(pruned) + len(with_all_columns) == 3
    for record in with_all_columns:
        assert fast.program.state()[record.state].shape == (ROWS, COLUMNS)


def test_the_records_are_saved(tmp_path: Any) -> None:
    fast = optimize(Tables().eval(), precision="int8")
    fast.save(tmp_path / "model")
    assert recfx.load(tmp_path / "model").tables == fast.tables
