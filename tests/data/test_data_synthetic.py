"""Generated data have the properties of the recipe, and their planted structure can be learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.data import (
    CtrRecipe,
    PlantedCtr,
    auc,
    auc_interval,
    evaluate_ctr,
    log_loss,
    synthetic_ctr,
    synthetic_feedback,
    train_ctr,
)
from recfx.errors import DataError

SMALL = CtrRecipe(rows=20_000, cardinalities=(30,) * 6, n_dense=3)


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.integers(0, 4),
    st.floats(0, 2),
    st.integers(1, 3),
    st.floats(0, 5),
    st.floats(0, 0.3),
    st.floats(0.2, 0.8),
    st.integers(0, 2**31),
)
def test_any_recipe_gives_valid_data_at_its_base_rate(
    sizes: list[int], n_dense: int, zipf: float, rank: int, scale: float, noise: float, rate: float, seed: int
) -> None:
    recipe = CtrRecipe(400, tuple(sizes), n_dense, zipf, rank, scale, noise, rate, seed)
    data = synthetic_ctr(recipe)
    assert (len(data.train), len(data.valid), len(data.test)) == (320, 40, 40)
    assert data.cardinalities == tuple(sizes)
    assert data.n_dense == n_dense
    assert data.train.probability is not None
    assert bool(torch.isfinite(data.train.dense).all())
    assert float(data.train.probability.min()) >= noise / 2 - 1e-6
    assert float(data.train.probability.max()) <= 1 - noise / 2 + 1e-6
    again = synthetic_ctr(recipe)
    assert torch.equal(again.test.sparse, data.test.sparse)
    assert torch.equal(again.test.dense, data.test.dense)
    assert torch.equal(again.test.label, data.test.label)
    assert data.bayes_auc is not None
    assert 0.499 <= data.bayes_auc <= 1.0


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.6])
def test_the_population_has_the_base_rate(rate: float) -> None:
    split = PlantedCtr(CtrRecipe(cardinalities=(20,) * 5, base_rate=rate, label_noise=0.05)).sample(40_000, 1)
    assert float(split.label.mean()) == pytest.approx(rate, abs=0.01)
    assert split.probability is not None
    assert float(split.probability.mean()) == pytest.approx(rate, abs=0.01)


def test_ids_follow_the_zipf_law() -> None:
    split = PlantedCtr(CtrRecipe(cardinalities=(10,), n_dense=1, zipf=1.2)).sample(50_000, 0)
    weights = np.arange(1, 11.0) ** -1.2
    counts = torch.bincount(split.sparse[:, 0], minlength=10).numpy() / 50_000
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.01)


def test_the_logit_is_the_documented_sum() -> None:
    truth = PlantedCtr(SMALL)
    split = truth.sample(50, 0)
    for row in range(50):
        ids = split.sparse[row].tolist()
        total = sum(truth._effect[f][i] for f, i in enumerate(ids))
        total += sum(truth._factor[f][ids[f]] @ truth._factor[g][ids[g]] for f in range(6) for g in range(f))
        total += float(((split.dense[row].numpy() - truth._centre) / truth._spread) @ truth._slope)
        logit = truth.bias + SMALL.scale * total / 3**0.5
        assert float(truth.logit(split.dense, split.sparse)[row]) == pytest.approx(logit, abs=1e-5)
    assert split.probability is not None
    torch.testing.assert_close(truth.probability(split.dense, split.sparse).float(), split.probability)
    torch.testing.assert_close(torch.sigmoid(truth.logit(split.dense, split.sparse)).float(), split.probability)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_labels_are_drawn_from_the_probability_and_its_auc_is_bayes(noise: float) -> None:
    truth = PlantedCtr(CtrRecipe(cardinalities=(30,) * 6, n_dense=3, label_noise=noise))
    split = truth.sample(40_000, 5)
    assert split.probability is not None
    assert truth.bayes_auc in auc_interval(split.label, split.probability, confidence=0.999, resamples=300)
    for low in np.arange(0, 1, 0.2):  # calibrated in every band
        band = (split.probability >= low) & (split.probability < low + 0.2)
        if int(band.sum()) > 500:
            got, want = float(split.label[band].mean()), float(split.probability[band].mean())
            assert got == pytest.approx(want, abs=4 * 0.5 / int(band.sum()) ** 0.5)


def test_scale_makes_it_easier_and_noise_harder() -> None:
    def bayes(**change: Any) -> float:
        return PlantedCtr(CtrRecipe(cardinalities=(20,) * 5, **change)).bayes_auc

    assert bayes(scale=0) == pytest.approx(0.5, abs=1e-6)
    assert bayes(scale=0.5) < bayes(scale=1.5) < bayes(scale=4)
    assert bayes(label_noise=0.3) < bayes()


def test_other_seeds_are_other_models_and_other_rows() -> None:
    first, second = PlantedCtr(CtrRecipe(seed=0)), PlantedCtr(CtrRecipe(seed=1))
    assert not np.array_equal(first._effect[0], second._effect[0])
    assert not torch.equal(first.sample(100, 0).sparse, first.sample(100, 1).sparse)


class FactorMachine(torch.nn.Module):
    def __init__(self, sizes: tuple[int, ...], n_dense: int, rank: int) -> None:
        super().__init__()
        self.effect = torch.nn.ModuleList(torch.nn.Embedding(n, 1) for n in sizes)
        self.factor = torch.nn.ModuleList(torch.nn.Embedding(n, rank) for n in sizes) if rank else []
        for table in [*self.effect, *self.factor]:
            torch.nn.init.normal_(table.weight, std=0.05)
        self.dense = torch.nn.Linear(n_dense, 1)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        logit = self.dense(dense)[:, 0]
        for field, table in enumerate(self.effect):
            logit = logit + table(sparse[:, field])[:, 0]
        if self.factor:
            v = torch.stack([table(sparse[:, f]) for f, table in enumerate(self.factor)], 1)
            logit = logit + 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return logit


def test_a_model_of_the_planted_form_comes_near_bayes_and_a_linear_one_does_not() -> None:
    torch.manual_seed(0)
    data = synthetic_ctr(CtrRecipe(rows=40_000, cardinalities=(12,) * 6, n_dense=3))
    figures = {}
    for rank in (0, 4):
        model = FactorMachine(data.cardinalities, data.n_dense, rank)
        train_ctr(model, data, epochs=8, batch_size=256, lr=1e-2, progress=False)
        figures[rank] = evaluate_ctr(model, data.test)
    assert data.test.probability is not None
    best = auc(data.test.label, data.test.probability)
    assert figures[0].auc + 0.02 < figures[4].auc
    assert best - 0.02 < figures[4].auc < best + 0.01
    assert figures[4].log_loss < figures[0].log_loss
    assert log_loss(data.test.label, data.test.probability) < figures[4].log_loss


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"rows": 9}, "CtrRecipe.rows"),
        ({"cardinalities": ()}, "CtrRecipe.cardinalities"),
        ({"cardinalities": (3, 0)}, "CtrRecipe.cardinalities"),
        ({"n_dense": -1}, "CtrRecipe.n_dense"),
        ({"zipf": -0.1}, "CtrRecipe.zipf"),
        ({"rank": 0}, "CtrRecipe.rank"),
        ({"scale": -1.0}, "CtrRecipe.scale"),
        ({"scale": float("nan")}, "CtrRecipe.scale"),
        ({"label_noise": 1.5}, "CtrRecipe.label_noise"),
        ({"label_noise": 0.6}, "CtrRecipe.base_rate"),
        ({"base_rate": 0.0}, "CtrRecipe.base_rate"),
        ({"seed": -1}, "CtrRecipe.seed"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(DataError, match=where):
        CtrRecipe(**change)


def test_generated_feedback_is_deterministic_and_calibrated() -> None:
    feedback = synthetic_feedback(users=800, items=300, factors=4, seed=3)
    again = synthetic_feedback(users=800, items=300, factors=4, seed=3)
    assert torch.equal(feedback.item, again.item)
    assert torch.equal(feedback.positive, again.positive)
    assert feedback.probability is not None
    assert feedback.time is not None
    assert 0.15 < float(feedback.test.float().mean()) < 0.25
    # 2 times a sum of variance 1 + 1/4, since `scale` is 2 by default.
    assert float(torch.logit(feedback.probability).std()) == pytest.approx(2 * 1.25**0.5, rel=0.15)
    assert float(feedback.positive.float().mean()) == pytest.approx(float(feedback.probability.mean()), abs=0.01)
    assert auc(feedback.positive, feedback.probability) > 0.8
    counts = torch.bincount(feedback.item, minlength=300).sort(descending=True).values
    assert int(counts[0]) > 5 * int(counts[150])  # popularity is skewed


@pytest.mark.parametrize(
    "change",
    [{"users": 0}, {"items": 0}, {"factors": 0}, {"per_user": 0}, {"test_share": 1.0}, {"test_share": 0}],
)
def test_impossible_feedback_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        synthetic_feedback(**change)
