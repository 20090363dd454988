"""The sides of a model whose tables take new rows: the tensors of a table on each, and models that are held on one."""

from __future__ import annotations

import pytest
import torch
from live_rows_kit import NAMES, Tables, drawn, inputs, optimize

import recfx
from recfx.driver import live_tables
from recfx.driver.table_sides import Side, run_parts


def test_a_side_names_the_tensors_of_a_table() -> None:
    fast = optimize(Tables().eval())
    side = Side(fast.parts)
    for record in fast.tables:
        ((held, table),) = side.tables(record, None)
        assert held is record
        assert table.data_ptr() == fast.state_dict()[record.state].data_ptr()
        assert side.tables(record, None) is side.tables(record, None)


def test_calls_of_parts_are_those_of_the_model() -> None:
    fast = optimize(Tables().eval(), max_batch=8)
    for batch in (1, 8):
        assert torch.equal(run_parts(fast.parts, inputs(batch), {}, lossy=False), fast(*inputs(batch)))
    many = tuple(torch.cat([t, t, t]) for t in inputs(8))  # more than the largest batch
    assert torch.equal(run_parts(fast.parts, many, {}, lossy=False), fast(*many))
    with pytest.raises(recfx.InputError):
        run_parts(fast.parts, inputs(8)[:1], {}, lossy=False)


def test_a_pinned_model_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several calls see the rows of one moment; the update after the next one waits for the end of the pinned model."""
    fast = optimize(Tables().eval(), max_batch=8)
    never_updated = fast.pinned()
    old = fast(*inputs(8))
    fast.update_tables(drawn(NAMES, 20, 1))
    assert torch.equal(never_updated(*inputs(8)), old)
    monkeypatch.setattr(live_tables, "_LONGEST_CALL", 0.05)
    want, pinned = fast(*inputs(8)), fast.pinned()
    fast.update_tables(drawn(NAMES, 20, 2))
    with pytest.raises(recfx.TargetError, match="has not ended"):
        fast.update_tables(drawn(NAMES, 20, 3))
    assert torch.equal(pinned(*inputs(8)), want)
    assert torch.equal(pinned(*(torch.cat([t, t]) for t in inputs(8))), torch.cat([want, want]))
    del pinned
    assert fast.update_tables(drawn(NAMES, 20, 3)) == 3
    fast.check_updates(drawn(NAMES, 20, 4))
    with pytest.raises(recfx.InputError):
        fast.check_updates({"users": ([0], torch.full((1, 16), float("nan")))})
    assert fast.table_version == 3


def test_a_pinned_model_that_was_released_lets_updates_pass() -> None:
    fast = optimize(Tables().eval())
    fast.prepare_updates()
    pinned = fast.pinned()
    pinned.release()
    pinned.release()
    for seed in range(3):
        fast.update_tables(drawn(NAMES, 3, seed))
    assert fast.table_version == 3
