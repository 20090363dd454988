"""`keep=[...]`: weights and groups of channels that passes leave as they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from torch import nn

from recfx.analysis.channel_groups import channel_groups
from recfx.capture import capture
from recfx.errors import InputError
from recfx.ir import Program
from recfx.passes import NATIVE_PIPELINE, PruneChannels, QuantizeLinears, QuantizeTables
from recfx.passes._kept import require_known
from recfx.passes.prune.prune_channels import group_names
from recfx.pipeline import Pass, Pipeline, PipelineResult

TABLES = ("item.weight", "user.weight")
LINEARS = ("0.weight", "2.weight", "4.weight")


def tables() -> Program:
    return Pipeline(NATIVE_PIPELINE).run(capture(TinyCtr(), tiny_inputs(4))).program


def tower() -> Program:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    return capture(model, (torch.randn(6, 8),))


def run(program: Program, *passes: Pass | str) -> PipelineResult:
    return Pipeline(list(passes)).run(program)


def test_a_kept_table_stays_and_says_so() -> None:
    result = run(tables(), QuantizeTables(keep=("user.weight",)))
    state = result.program.state()
    assert state["user.weight"].dtype is torch.float32
    assert "item.weight" not in state
    assert [miss.reason for miss in result.records[-1].misses] == ["keep names it"]


@given(st.sets(st.sampled_from(LINEARS)))
@settings(deadline=None, max_examples=8)
def test_kept_layers_stay(keep: set[str]) -> None:
    result = run(tower(), "canonicalize,fuse-mlp", QuantizeLinears(min_weights=1, keep=tuple(sorted(keep))))
    assert {name for name in LINEARS if name in result.program.state()} == keep


@given(st.sets(st.sampled_from(("0.weight:0", "2.weight:0"))))
@settings(deadline=None, max_examples=4)
def test_kept_groups_stay_whole(keep: set[str]) -> None:
    program = run(tower(), PruneChannels(round_to=1, keep=tuple(sorted(keep)))).program
    sizes = {name: tensor.shape for name, tensor in program.state().items()}
    for name in ("0.weight", "2.weight"):
        assert sizes[name][0] == (24 if f"{name}:0" in keep else 12)


def test_names_hold_after_pruning() -> None:
    pruned = run(tower(), PruneChannels(round_to=1)).program
    assert set(group_names(channel_groups(pruned)).values()) == set(group_names(channel_groups(tower())).values())
    fused = Pipeline([*Pipeline("canonicalize,fuse-mlp"), QuantizeLinears(min_weights=1, keep=("2.weight",))])
    state = fused.run(pruned).program.state()
    assert {name for name, tensor in state.items() if tensor.dtype is torch.float32 and tensor.ndim > 1} == {"2.weight"}


@pytest.mark.parametrize(
    ("item", "known"),
    [
        (QuantizeTables(keep=("users",)), "user.weight"),
        (QuantizeLinears(keep=("users",)), "user.weight"),
        (PruneChannels(keep=("users",)), ":0"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_names(item: Pass, known: str) -> None:
    program = capture(TinyCtr(), tiny_inputs(4))
    with pytest.raises(Exception, match="keep names 'users', which the program does not have here") as caught:
        run(program, item)
    assert isinstance(caught.value.__cause__, InputError)
    assert known in str(caught.value.__cause__.hint)


def test_options_are_text() -> None:
    item = QuantizeTables(keep=("a.b", "c_1"))
    assert Pipeline(str(item)) == Pipeline([item])


def test_nothing_to_keep_needs_no_names() -> None:
    require_known([], [], "pass")
    with pytest.raises(InputError, match="it has none"):
        require_known(["a"], [], "pass")
