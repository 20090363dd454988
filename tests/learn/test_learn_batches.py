"""The parts of a step: distinct rows, losses that gather them, falling learning rates, and a teacher's items drawn by
rank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import QUICK, UserSampler, encoder, planted, seeds

from recfx.errors import InputError
from recfx.learn import (
    BCE,
    BPR,
    Batch,
    QuantizedModel,
    RankedDistillation,
    RankingLoss,
    Rows,
    SampledSoftmax,
    Trainer,
    TrainSettings,
    teacher_top,
)
from recfx.learn.losses import loss_of_rows

LOSSES: dict[str, RankingLoss] = {
    "bpr": BPR(),
    "bce": BCE(),
    "softmax": SampledSoftmax(),
    "cold": SampledSoftmax(0.3),
}


@given(seed=seeds(), count=st.integers(1, 40), ids=st.sampled_from([5, 60, 100_000]), negatives=st.integers(1, 3))
def test_distinct_rows_are_those_of_unique(seed: int, count: int, ids: int, negatives: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, positives = (torch.randint(ids, (count,), generator=generator) for _ in range(2))
    batch = Batch(users, positives, torch.randint(ids, (count, negatives), generator=generator))
    further = torch.randint(ids, (count, 2), generator=generator)
    found = batch.distinct(further)
    assert torch.equal(found.users, torch.unique(users))
    assert torch.equal(found.items, torch.unique(torch.cat([batch.items, further.flatten()])))
    assert found.further is not None
    for places, rows, want in (
        (found.places.users, found.users, users),
        (found.places.positives, found.items, positives),
        (found.places.negatives, found.items, batch.negatives),
        (found.further, found.items, further),
    ):
        assert torch.equal(rows[places], want)


@given(seed=seeds(), name=st.sampled_from(sorted(LOSSES)), negatives=st.integers(1, 3), double=st.booleans())
def test_losses_of_rows_are_those_of_their_samples(seed: int, name: str, negatives: int, double: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    users, items = (torch.randn(n, 5, generator=generator, dtype=dtype) for n in (4, 7))
    places = (
        torch.randint(4, (9,), generator=generator),
        torch.randint(7, (9,), generator=generator),
        torch.randint(7, (9, negatives), generator=generator),
    )
    found, want = [], []
    for rows, gather in ((found, False), (want, True)):
        leaves = [users.clone().requires_grad_(), items.clone().requires_grad_()]
        samples = leaves[0][places[0]], leaves[1][places[1]], leaves[1][places[2]]
        value = LOSSES[name](*samples) if gather else loss_of_rows(LOSSES[name], leaves[0], leaves[1], places)
        rows += [value.detach(), *torch.autograd.grad(value, leaves)]
    for first, second in zip(found, want, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_no_samples_have_no_loss() -> None:
    none = torch.empty(0, dtype=torch.int64)
    for loss in LOSSES.values():
        with pytest.raises(InputError, match="samples"):
            loss_of_rows(loss, torch.ones(2, 3), torch.ones(2, 3), (none, none, none.view(0, 1)))


def test_rates_fall_as_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    data, rates = planted(60, 40), []
    plain = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    settings = replace(QUICK, epochs=3, cosine_epochs=2)
    Trainer(QuantizedModel(encoder(data, "table")), UserSampler(data, batch=512), settings).run()
    each = len(rates) // 3
    assert each > 1
    wanted = [QUICK.lr * (1 + math.cos(math.pi * min(i / each / 2, 1))) / 2 for i in range(3 * each)]
    assert rates == pytest.approx(wanted, abs=1e-12)
    with pytest.raises(InputError, match="cosine_epochs"):
        TrainSettings(cosine_epochs=0)


def test_negatives_of_a_sample_share_one_penalty() -> None:
    """A negative that occurs three times has the same penalty as one that occurs once."""
    data = planted(60, 40)
    models = []
    for count in (1, 3):
        model = QuantizedModel(encoder(data, "table"))
        sampler = lambda generator, n=count: [  # noqa: E731
            (u, p, d[:, None].expand(-1, n)) for u, p, d in UserSampler(data)(generator)
        ]
        Trainer(model, sampler, replace(QUICK, epochs=1, l2=0.5)).run()
        models.append(model.embeddings())
    for first, second in zip(*models, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


@given(seed=seeds(), decay=st.sampled_from([0.0, 0.1, 2.0]))
def test_ranks_are_drawn_by_their_chances(seed: int, decay: float) -> None:
    top = torch.arange(4).expand(3, 4).contiguous()
    torch.manual_seed(seed)
    found, weights = RankedDistillation(top, decay=decay).items(torch.zeros(20_000, dtype=torch.int64))
    assert found.shape == (20_000, 1)
    assert weights.numel() == 1
    chances = torch.exp(-decay * torch.arange(4, dtype=torch.float64))
    shares = torch.bincount(found.flatten(), minlength=4) / 20_000
    torch.testing.assert_close(shares.double(), chances / chances.sum(), rtol=0, atol=0.025)


def test_the_ranked_term_is_the_loss_of_the_teachers_items() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = Rows(torch.randn(3, 4, generator=generator), torch.randn(6, 4, generator=generator))
    places = Batch(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([[3], [4]]))
    taught = torch.tensor([[5], [0]])
    term = RankedDistillation(teacher_top(*rows, 2), weight=0.5).term(BPR(), rows, places, taught, torch.ones(1, 1))
    apart = rows.items[taught[:, 0]] - rows.items[places.negatives[:, 0]]
    want = 0.5 * torch.nn.functional.softplus(-(rows.users[places.users] * apart).sum(1)).mean()
    torch.testing.assert_close(term, want)


def test_what_cannot_be_taught() -> None:
    top = torch.zeros(2, 3, dtype=torch.int64)
    for wrong in ({"top": top.float()}, {"top": top[:, :0]}, {"weight": 0.0}, {"decay": -1.0}):
        with pytest.raises(InputError):
            RankedDistillation(**{"top": top, **wrong})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not for user 2"):
        RankedDistillation(top).items(torch.tensor([2]))
