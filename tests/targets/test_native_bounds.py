"""Every view of a plan lies in its slot: the checks when a plan is built, and views of views at many batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import LEVELS, generator, needs_kernels, partition, program_of, relaxed, seeds
from plan_kit import FUNCTIONS, Function, X, plans
from torch.nn import functional

from recfx.errors import TargetError
from recfx.kernels.codes import Kind, Place
from recfx.runtime.flat import flat_function
from recfx.targets.native.bounds import check_bounds
from recfx.targets.native.plan import Plan
from recfx.targets.native.steps import Slot, Step, View

pytestmark = needs_kernels


def _moved(view: View, by: int) -> View:
    return dataclasses.replace(view, offset=view.offset + by)


def _broken(slots: list[Slot], step: Step) -> Iterator[Step]:
    """A step with one of its views, or of its features, moved past the end or before the start of its slot."""
    for number, view in step.views.items():
        for by in (slots[view.slot].width, -slots[view.slot].width):
            yield dataclasses.replace(step, views={**step.views, number: _moved(view, by)})
    for by in (slots[step.out.slot].width, -slots[step.out.slot].width):
        yield dataclasses.replace(step, out=_moved(step.out, by))
    for number, feature in enumerate(step.features):
        for change in ({"output": slots[step.out.slot].width}, {"ids_offset": slots[feature["ids"]].width}):
            features = [*step.features]
            features[number] = {**feature, **change}
            yield dataclasses.replace(step, features=features)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_view_outside_its_slot_is_an_error(name: str) -> None:
    for slots, steps in plans(name):
        check_bounds(slots, steps)
        for number, step in enumerate(steps):
            for broken in _broken(slots, step):
                with pytest.raises(TargetError, match=rf"step {number} \({step.kind.name.lower()}\) reaches elements"):
                    check_bounds(slots, [*steps[:number], broken, *steps[number + 1 :]])


def test_most_kinds_of_steps_are_broken() -> None:
    """All kinds are covered, except those whose steps need models of their own."""
    met = {step.kind for name in FUNCTIONS for _, steps in plans(name) for step in steps}
    assert set(Kind) - met <= {Kind.CODE_DOT, Kind.TURN_KEYS, Kind.KEY_SCORES}


def test_a_broken_plan_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowering ends in the error, before a kernel runs."""
    made = Plan.__init__

    def widened(self: Plan, library: Any, level: str, builder: Any, arguments: Any) -> None:
        view = builder.steps[0].views[0]
        builder.steps[0].views[0] = dataclasses.replace(view, runs=tuple((n, stride * 2) for n, stride in view.runs))
        made(self, library, level, builder, arguments)

    monkeypatch.setattr(Plan, "__init__", widened)
    with pytest.raises(TargetError, match="reaches elements 0 to 10 of slot 0, which holds 6"):
        partition(program_of(lambda x: x * 2 + 1, [X]), LEVELS[0])


def test_rows_for_the_batch_and_one_row_do_not_mix() -> None:
    slots = [Slot(Place.INPUT, torch.float32, 4, False), Slot(Place.TEMP, torch.float32, 4, True)]
    runs = ((1, 0), (1, 0), (1, 0), (4, 1))
    step = Step(Kind.POINTWISE, True, {0: View(0, 0, runs)}, View(1, 0, runs), [0])
    with pytest.raises(TargetError, match="runs once and reads slot 0, which has a row for each row of the batch"):
        check_bounds(slots, [step])
    step.once = False
    with pytest.raises(TargetError, match="writes slot 1, which has one row for the whole batch"):
        check_bounds(slots, [step])


def test_a_row_too_wide_for_the_library_is_an_error() -> None:
    with pytest.raises(TargetError, match=f"slot 0 has {2**31} elements a row"):
        check_bounds([Slot(Place.TEMP, torch.float32, 2**31, False)], [])


def _one_view(data: st.DataObject, x: torch.Tensor) -> Function:
    """A drawn view of a tensor [B, ...] that leaves the batch alone."""
    dims = range(1, x.ndim)
    dim = data.draw(st.sampled_from(dims))
    size = x.shape[dim]
    kinds = ["slice", "select", "expand", "transpose", "narrow", "chunk", "split", "unfold", "flatten", "flip"]
    kind = data.draw(st.sampled_from(kinds))
    start = data.draw(st.integers(0, max(size - 1, 0)))
    if kind == "slice":
        step, stop = data.draw(st.integers(1, 3)), data.draw(st.integers(start, size))
        return lambda t: t[(slice(None),) * dim + (slice(start, max(stop, start + 1), step),)]
    if kind == "select" and x.ndim > 2:
        return lambda t: t.select(dim, start)
    if kind == "expand":
        count = data.draw(st.integers(1, 3))
        return lambda t: t.unsqueeze(dim).expand(*([-1] * dim), count, *([-1] * (t.ndim - dim)))
    if kind == "transpose":
        other = data.draw(st.sampled_from(dims))
        return lambda t: t.transpose(dim, other)
    if kind == "narrow":
        length = data.draw(st.integers(1, size - start))
        return lambda t: t.narrow(dim, start, length)
    if kind in ("chunk", "split"):
        parts, which = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
        return lambda t: (p := t.chunk(parts, dim) if kind == "chunk" else t.split(parts, dim))[which % len(p)]
    if kind == "unfold":
        length, step = data.draw(st.integers(1, min(size, 3))), data.draw(st.integers(1, 2))
        return lambda t: t.unfold(dim, length, step)
    if kind == "flip":
        return lambda t: t.flip(dim)
    return lambda t: t.flatten(1) if t.ndim > 2 else t.unsqueeze(1)


#: Readers of a view: by elements, by rows, by matrices, over axes.
READERS: dict[str, Function] = {
    "elements": lambda t: t * 3 + 1,
    "function": lambda t: torch.sigmoid(t),
    "copy": lambda t: t.contiguous() * 1.5,
    "sum": lambda t: t.sum(-1),
    "softmax": lambda t: t.softmax(1),
    "extreme": lambda t: t.amax(1),
    "layer": lambda t: functional.linear(t, torch.ones(3, t.shape[-1])),
    "product": lambda t: t @ t.mT if t.ndim > 2 else t[:, None] @ t[:, :, None],
    "norm": lambda t: functional.layer_norm(t, t.shape[-1:]),
    "joined": lambda t: torch.cat([t, t * 2], 1),
    "stacked": lambda t: torch.stack([t, t + 1], 1).flatten(1),
    "windows": lambda t: (
        t.reshape(len(t), -1).clone(memory_format=torch.contiguous_format).as_strided((len(t), 1), (t[0].numel(), 1))
        * 2
    ),
}


def _chain(data: st.DataObject, x: torch.Tensor) -> Function:
    """A drawn chain of views, of the input or of a result, and its reader."""
    reader = READERS[data.draw(st.sampled_from(sorted(READERS)))]
    through, views, shown = data.draw(st.booleans()), [], x
    for _ in range(data.draw(st.integers(1, 4))):
        take = _one_view(data, shown)
        if take(shown).numel() > 5_000 or take(shown).ndim > 5:
            break
        views.append(take)
        shown = take(shown)

    def function(x: torch.Tensor) -> torch.Tensor:
        t = x * 2 if through else x
        for take in views:
            t = take(t)
        found: torch.Tensor = reader(t)
        return found

    return function


@given(data=st.data(), seed=seeds)
@settings(relaxed, max_examples=5)
def test_views_of_views(data: st.DataObject, seed: int) -> None:
    """Chains of views, read by any kernel: torch's numbers at every batch, by a kernel or by torch itself."""
    x = torch.randn(4, *data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)), generator=generator(seed))
    chains = [_chain(data, x) for _ in range(data.draw(st.integers(1, 8)))]
    program = program_of(lambda x: tuple(chain(x) for chain in chains), [x])
    for level in LEVELS:
        run = flat_function(partition(program, level).region)
        for batch in (1, 2, 3, 7):
            rows = torch.randn(batch, *x.shape[1:], generator=generator(seed + batch))
            for found, chain in zip(run(rows), chains, strict=True):
                torch.testing.assert_close(found, chain(rows), rtol=1e-4, atol=1e-4)
