"""The benchmark of recfx's pruning beside torch-pruning's: equal multiply-adds, its table, and what it refuses."""

from __future__ import annotations

import pytest
from budget_kit import Clicks, inputs

from benchmarks import pruning_peers
from recfx.capture import capture
from recfx.errors import MeasureError
from recfx.ir import Program


def program() -> Program:
    return capture(Clicks(hidden=128), inputs(64))


@pytest.mark.parametrize("way", pruning_peers.OWN)
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_programs_are_pruned_to_at_most_a_share_of_the_multiply_adds(way: str, share: float) -> None:
    found = pruning_peers.down_to(program(), pruning_peers.OWN[way], share, [inputs(64)])
    left = pruning_peers.multiply_adds(found) / pruning_peers.multiply_adds(program())
    assert share - 0.15 < left <= share


def test_a_share_that_is_out_of_reach_is_said() -> None:
    with pytest.raises(MeasureError, match="does not prune to 0%"):
        pruning_peers.down_to(program(), pruning_peers.OWN["recfx, l2"], 1e-6, [inputs(64)])


def test_what_a_peer_could_not_do_is_a_row_of_the_table() -> None:
    done = [pruning_peers.Pruned(0.4, (0.002, 0.001)), pruning_peers.Pruned(0.5, (0.004, 0.0))]
    assert pruning_peers._cells(done) == [
        "0.450",
        "-0.00300 (worst -0.00400)",
        "-0.00050 (worst -0.00100)",
    ]
    assert pruning_peers._cells([done[0], "IndexError: out of bounds"]) == ["IndexError: out of bounds", "", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (pruning_peers.Settings(None, ["din"]), r"no MLPs are known of din"),
        (pruning_peers.Settings(None, seeds=0), r"no seed"),
    ],
)
def test_refusals(settings: pruning_peers.Settings, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        pruning_peers.measure(settings)


@pytest.mark.slow
def test_the_table() -> None:
    pytest.importorskip("torch_pruning", reason="pip install --no-deps torch-pruning")
    found = pruning_peers.measure(pruning_peers.Settings(None, ["dlrm"], 1, rows=3000, epochs=1))
    assert "| dlrm  | torch-pruning, magnitude |" in found
    assert "recfx, taylor" in found
