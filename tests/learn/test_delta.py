"""GSTE's delta against its definition on the whole table, and the times of its updates."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import (
    BCE,
    BPR,
    Batch,
    Curvature,
    DeltaSettings,
    HessianScaled,
    QuantizedModel,
    RankingLoss,
    Rows,
    SampledSoftmax,
    TableEncoder,
    deltas,
    make_quantizer,
)
from recfx.learn.losses.base import Diagonal

USERS, ITEMS, DIM = 5, 7, 3


def _model(bits: int, bounds: str, shared: bool, seed: int) -> QuantizedModel:
    torch.manual_seed(seed)
    encoder = TableEncoder(USERS, ITEMS, DIM, std=1.0).double()
    first = make_quantizer(bits, "gste", bounds, dim=DIM).double()
    second = first if shared else make_quantizer(bits, "gste", bounds, dim=DIM).double()
    model = QuantizedModel(encoder, first, second)
    for quantizer, table in zip((first, second), encoder.embeddings(), strict=True):
        quantizer.bounds.observe(table.detach())
    return model


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(USERS, (6,), generator=generator)
    items = torch.stack([torch.randperm(ITEMS, generator=generator)[:3] for _ in users])
    return Batch(users, items[:, 0], items[:, 1:])


def _rows(model: QuantizedModel, batch: Batch) -> tuple[Batch, Rows]:
    """A further item must not affect delta: it is embedded for another purpose."""
    distinct = batch.distinct(torch.arange(ITEMS))
    return distinct.places, model.rows(distinct.users, distinct.items)


def _by_hand(model: QuantizedModel, batch: Batch, loss: RankingLoss, settings: DeltaSettings) -> list[float]:
    """With the Hessian of the loss as a function of both tables' x_q, computed whole."""
    sides = model.user_quantizer, model.item_quantizer
    grids = [q.grid(t.detach()) for q, t in zip(sides, model.encoder.embeddings(), strict=True)]  # type: ignore[operator,union-attr]
    points = [(g.x.clamp(0, 1) * q.steps).round() / q.steps for g, q in zip(grids, sides, strict=True)]  # type: ignore[union-attr]
    sizes = [p.numel() for p in points]

    def value(flat: Tensor) -> Tensor:
        users, items = (
            g.lower + g.span * part.view(p.shape)
            for g, part, p in zip(grids, flat.split(sizes), points, strict=True)
        )  # fmt: skip
        return loss(users[batch.users], items[batch.positives], items[batch.negatives])

    flat = torch.cat([p.detach().flatten() for p in points])
    hessian = torch.autograd.functional.hessian(value, flat).diagonal()
    gradient = torch.autograd.functional.jacobian(value, flat)
    touched = [torch.zeros(n, DIM, dtype=torch.bool) for n in (USERS, ITEMS)]
    touched[0][batch.users] = True
    touched[1][batch.items] = True
    chosen = torch.cat([t.flatten() for t in touched]) | (settings.over == "all")
    of_side = torch.arange(len(flat)) >= sizes[0]
    found = []
    for quantizer in model.quantizers():
        mine = torch.zeros_like(chosen)
        for side in (0, 1):
            if sides[side] is quantizer:
                mine |= of_side == bool(side)
        g = gradient[chosen & mine]
        size = g.abs().mean() if settings.normalizer == "mean-abs" else 3 * g.std(unbiased=False)
        found.append(float(hessian[chosen & mine].mean() / size))
    return found


@given(
    seed=seeds(),
    bits=st.sampled_from([1, 2]),
    bounds=st.sampled_from(["sigma", "per-row", "per-dimension", "learned"]),
    shared=st.booleans(),
    loss=st.sampled_from([BPR(), BCE(), SampledSoftmax()]),
    normalizer=st.sampled_from(["3std", "mean-abs"]),
    over=st.sampled_from(["touched", "all"]),
)
def test_delta_is_its_definition(
    seed: int,
    bits: int,
    bounds: str,
    shared: bool,
    loss: RankingLoss,
    normalizer: Literal["3std", "mean-abs"],
    over: Literal["touched", "all"],
) -> None:
    model, batch = _model(bits, bounds, shared, seed), _batch(seed)
    settings = DeltaSettings(normalizer=normalizer, over=over)
    found = deltas(model, model.quantizers(), *_rows(model, batch), loss, settings)
    assert found == pytest.approx(_by_hand(model, batch, loss, settings), rel=1e-6)


class _Uneven(BPR):
    """A loss with one large element in a part of its diagonal, and ones elsewhere."""

    def __init__(self, part: str, largest: float) -> None:
        super().__init__()
        self._part, self._largest = part, largest

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        parts = Diagonal(*map(torch.ones_like, (users, positives, negatives)))
        getattr(parts, self._part).view(-1)[0] = self._largest
        return parts


@pytest.mark.parametrize("part", Diagonal._fields)
def test_traces_of_float32_models_are_summed_in_float64(part: str) -> None:
    model, batch = _model(1, "sigma", False, 4).float(), _batch(4)
    for quantizer in model.quantizers():
        quantizer.bounds.set_bounds(torch.zeros(()), torch.ones(()))  # type: ignore[operator]
    rows, side = _rows(model, batch), int(part != "users")
    plain, uneven = (
        deltas(model, model.quantizers(), *rows, _Uneven(part, largest), DeltaSettings())[side]
        for largest in (1.0, 2.0**24)
    )
    terms = batch.users.numel() * DIM if side == 0 else (batch.positives.numel() + batch.negatives.numel()) * DIM
    assert uneven / plain == pytest.approx((2.0**24 + terms - 1) / terms, rel=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_probes_come_near_the_closed_form(shared: bool) -> None:
    model, batch = _model(1, "sigma", shared, 0), _batch(0)
    torch.manual_seed(0)
    settings = DeltaSettings(method="hutchinson", probes=3000, tolerance=0)
    probed = deltas(model, model.quantizers(), *_rows(model, batch), BPR(), settings)
    closed = deltas(model, model.quantizers(), *_rows(model, batch), BPR(), DeltaSettings())
    assert probed == pytest.approx(closed, rel=0.1)


def test_only_one_side_quantised() -> None:
    full, batch = _model(1, "sigma", False, 1), _batch(1)
    model = QuantizedModel(full.encoder, None, full.item_quantizer)
    (found,) = deltas(model, model.quantizers(), *_rows(model, batch), BPR(), DeltaSettings())
    assert found > 0


def test_no_gradient_no_delta() -> None:
    model, batch = _model(1, "sigma", False, 2), _batch(2)
    with torch.no_grad():
        for table in model.encoder.embeddings():  # type: ignore[operator]
            table.zero_()
    for quantizer in model.quantizers():
        quantizer.bounds.set_bounds(torch.zeros(()), torch.ones(()))  # type: ignore[operator]
    assert deltas(model, model.quantizers(), *_rows(model, batch), BPR(), DeltaSettings()) == [0.0, 0.0]


def _updates(settings: DeltaSettings, epochs: int = 3, batches: int = 4) -> tuple[Curvature, list[int]]:
    """Runs some epochs; returns the steps at which delta changed."""
    model, curvature, steps = _model(1, "sigma", False, 0), Curvature(settings), []
    for step in range(epochs * batches):
        batch = _batch(step)
        epoch = step // batches if step % batches == 0 else -1
        known = len(curvature.history)
        curvature.watch(model, *_rows(model, batch), BPR(), (step, epoch))
        if len(curvature.history) > known:
            steps.append(step)
            for quantizer, delta in zip(model.quantizers(), curvature.history[-1][1], strict=True):
                assert isinstance(quantizer.estimator, HessianScaled)
                assert float(quantizer.estimator.delta) == pytest.approx(delta)
    return curvature, steps


def test_periods() -> None:
    assert _updates(DeltaSettings(batches=1))[1] == [4, 8]
    assert _updates(DeltaSettings(batches=3))[1] == [6, 10]
    assert _updates(DeltaSettings(every=2, batches=1))[1] == [8]
    assert _updates(DeltaSettings(every=5, unit="steps", batches=2))[1] == [6, 11]
    assert _updates(DeltaSettings(every=1, unit="steps", batches=3))[1] == [3, 6, 9]


def test_averages() -> None:
    every = _updates(DeltaSettings(every=1, unit="steps", batches=1))[0].history
    pairs = _updates(DeltaSettings(every=2, unit="steps", batches=2))[0].history
    value = dict(every)
    for step, delta in pairs:
        assert delta == pytest.approx([(a + b) / 2 for a, b in zip(value[step], value[step - 1], strict=True)])
    smooth = _updates(DeltaSettings(every=1, unit="steps", batches=1, ema=0.75))[0].history
    running = smooth[0][1]
    for (_, now), (_, new) in zip(smooth[1:], every[1:], strict=True):
        running = [0.75 * old + 0.25 * fresh for old, fresh in zip(running, new, strict=True)]
        assert now == pytest.approx(running, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"batches": 0}, {"ema": 1.0}, {"probes": 0}, {"method": "x"}, {"normalizer": "x"}, {"over": "x"}, {"unit": "x"}],
)  # fmt: skip
def test_settings_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        DeltaSettings(**options)  # type: ignore[arg-type]
