"""New rows in a compiled model as an object: what its state, copies, saved folders and a refresh hold after updates."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from live_rows_kit import NAMES, Tables, drawn, inputs, optimize

import recfx
from recfx.errors import InputError


def test_saved_copied_and_pickled_models_hold_the_new_rows(tmp_path: Path) -> None:
    fast = optimize(Tables().eval(), precision="int8")
    fast.update_tables(drawn(NAMES, 30, 1))
    want = fast(*inputs())
    fast.save(tmp_path / "model")
    others = [recfx.load(tmp_path / "model"), copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    for other in others:
        assert torch.equal(other(*inputs()), want)
    fast.update_tables(drawn(NAMES, 30, 2))
    for other in others:
        assert torch.equal(other(*inputs()), want)  # they share nothing
        other.update_tables(drawn(NAMES, 30, 2))
        assert torch.equal(other(*inputs()), fast(*inputs()))


def test_a_refresh_replaces_the_rows() -> None:
    model = Tables().eval()
    fast = optimize(model)
    want = fast(*inputs())
    fast.update_tables(drawn(NAMES, 30, 1))
    assert not torch.equal(fast(*inputs()), want)
    fast.refresh()
    assert torch.equal(fast(*inputs()), want)
    assert fast.table_version == 0
    fast.update_tables(drawn(NAMES, 30, 1))
    assert fast.table_version == 1


@pytest.mark.parametrize("called", [False, True])
def test_the_state_holds_the_present_rows(called: bool) -> None:
    """Also while a call reads the side that does not have the rows yet."""
    fast = optimize(Tables().eval())
    other = {name: tensor.clone() for name, tensor in fast.state_dict().items()}
    fast.prepare_updates()
    for seed, name in enumerate((*NAMES, *NAMES)):
        ids, rows = drawn((name,), 5, seed)[name]
        held = fast.pinned() if called else None
        fast.update_tables({name: (ids, rows)})
        for position, id_ in enumerate(ids.tolist()):
            other[name][id_] = rows[position]
        assert all(torch.equal(tensor, other[key]) for key, tensor in fast.state_dict().items())
        if held is not None:
            held.release()
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_tables_are_made_ready_before_the_first_update() -> None:
    fast = optimize(Tables().eval())
    want = fast(*inputs())
    fast.prepare_updates()
    parts = fast.parts
    assert torch.equal(fast(*inputs()), want)
    fast.update_tables(drawn(NAMES, 20))
    fast.update_tables(drawn(NAMES, 20))
    assert fast.parts is parts  # two updates later, the same side is active
    with pytest.raises(recfx.InputError, match="no table 'other'"):
        fast.prepare_updates(["other"])


def test_the_users_own_model_takes_no_rows() -> None:
    fast = optimize(Tables().eval())
    object.__setattr__(fast.parts.report, "kept_eager", True)
    with pytest.raises(recfx.InputError, match="your own model runs"):
        fast.update_tables(drawn(NAMES, 3))


def test_a_model_with_a_journal_is_not_exchanged_with_others(tmp_path: Path) -> None:
    fast = optimize(Tables().eval())
    fast.save(tmp_path / "model")
    fast.keep_updates(tmp_path / "model")
    with pytest.raises(InputError, match="journal of its own"):
        fast.update_tables(drawn(NAMES, 3), exchange=lambda swap: swap())
