"""Kernels read most slots as float32 without a check, so no plan is built in which such a slot holds another dtype."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from native_kit import LEVELS, needs_kernels, partition, program_of
from plan_kit import FUNCTIONS, plans

from recfx.errors import TargetError
from recfx.ops import interaction, lookup
from recfx.runtime.flat import flat_function
from recfx.targets.native.plan import Plan
from recfx.targets.native.slot_dtypes import check_dtypes

pytestmark = needs_kernels
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_slot_of_another_dtype_is_an_error(name: str) -> None:
    for slots, steps in plans(name):
        check_dtypes(slots, steps)
        used = {slot for step in steps for slot in (step.out.slot, *(view.slot for view in step.views.values()))}
        used |= {feature["ids"] for step in steps for feature in step.features}
        for slot in used:
            for dtype in (torch.bfloat16, torch.float64):
                others = [*slots]
                others[slot] = dataclasses.replace(slots[slot], dtype=dtype)
                with pytest.raises(TargetError, match=r"takes .*, and slot \d+ holds torch"):
                    check_dtypes(others, steps)


def test_a_plan_with_one_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Plan.__init__

    def changed(self: Plan, library: Any, level: str, builder: Any, arguments: Any) -> None:
        builder.slots[0] = dataclasses.replace(builder.slots[0], dtype=torch.bfloat16)
        made(self, library, level, builder, arguments)

    monkeypatch.setattr(Plan, "__init__", changed)
    with pytest.raises(TargetError, match=r"step 0 \(pointwise\) takes bool or float32 .* holds torch.bfloat16"):
        partition(program_of(lambda x: x * 2 + 1, [torch.randn(4, 6)]), LEVELS[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("jagged", [True, False])
def test_weights_of_bags_are_read_as_what_they_are(jagged: bool, dtype: torch.dtype) -> None:
    """torch handles weights of 16 bits: read as float32 they would be other numbers, and reads would pass their end."""
    feature = lookup.Feature(0, 0, 16, 0, length=-1 if jagged else 3, weights=0, offsets=0 if jagged else -1)
    numbers = lookup.encode([feature])

    def look(dense: Any, ids: Any, weights: Any, offsets: Any, table: torch.Tensor) -> torch.Tensor:
        starts = [offsets] if jagged else []
        return lookup.grouped_lookup([table], [ids], starts, [weights], [dense], numbers, [0, 16], 17)

    batch, count, ends = ({0: torch.export.Dim(name)} for name in ("batch", "count", "ends"))
    rows = count if jagged else batch
    ids = torch.arange(12).remainder(5).reshape((12,) if jagged else (4, 3))
    inputs = [torch.ones(4, 1), ids, torch.rand(ids.shape).to(dtype), torch.arange(0, 13, 3)]
    program = program_of(look, inputs, [torch.randn(5, 16)], dynamic_shapes={"inputs": (batch, rows, rows, ends)})
    made = partition(program, LEVELS[0])
    assert bool(made.refused) == (dtype is not torch.float32)
    torch.testing.assert_close(flat_function(made.region)(*inputs), tuple(program.run(inputs)))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_prefix_of_dots_is_read_as_what_it_is(dtype: torch.dtype) -> None:
    x, prefix = torch.randn(4, 3, 6), torch.randn(4, 5).to(dtype)

    def dots(x: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        return interaction.dot_interaction(x, prefix, False, False)

    made = partition(program_of(dots, [x, prefix]), LEVELS[0])
    assert any("its prefix is" in reason for reason in made.refused.values())
    torch.testing.assert_close(flat_function(made.region)(x, prefix)[0], dots(x, prefix))
