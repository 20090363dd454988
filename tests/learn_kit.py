"""Helpers of the tests of `recfx.learn`: blocks of embeddings, planted preferences, a sampler and an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from recfx.data import Interactions, evaluate_ranking, synthetic_feedback
from recfx.learn import (
    BITS,
    BOUNDS,
    ESTIMATORS,
    QuantizedModel,
    Quantizer,
    TableEncoder,
    TrainSettings,
    make_quantizer,
)
from recfx.zoo import LightGCN

DIM = 6

#: Settings of a few epochs, with an evaluation of each.
QUICK = TrainSettings(epochs=3, lr=5e-3, evaluate_every=1, progress=False)


def seeds() -> st.SearchStrategy[int]:
    """Seeds for torch's generators."""
    return st.integers(0, 2**31 - 1)


@st.composite
def blocks(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Tensor:
    """Embeddings [n, DIM] of any scale and offset."""
    rows = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(seeds()))
    scale, offset = 10 ** draw(st.floats(-4, 3)), draw(st.sampled_from([0.0, 0.5, -3.0]))
    return (torch.randn(rows, DIM, generator=generator, dtype=torch.float64) + offset).mul(scale).to(dtype)


@st.composite
def quantizers(draw: st.DrawFn, estimator: str | None = None) -> Quantizer:
    """Every combination of estimator, bits and bounds."""
    return make_quantizer(
        draw(st.sampled_from(BITS)),
        estimator or draw(st.sampled_from(sorted(ESTIMATORS))),
        draw(st.sampled_from(sorted(BOUNDS))),
        dim=DIM,
    )


def planted(users: int = 300, items: int = 200, seed: int = 0) -> Interactions:
    """Interactions with a structure that can be learned."""
    return Interactions.from_feedback(synthetic_feedback(users, items, per_user=40, seed=seed))


class UserSampler:
    """Draws an epoch of |train| samples: a uniform user, a uniform item of the user, and a uniform item."""

    def __init__(self, data: Interactions, batch: int = 1024, negatives: int | None = None) -> None:
        self.data, self.batch, self.negatives = data, batch, negatives

    def __call__(self, generator: torch.Generator) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        indptr, indices = self.data.train_indptr, self.data.train_indices
        counts = indptr.diff()
        active = counts.nonzero().flatten()
        draws = len(indices)
        users = active[torch.randint(len(active), (draws,), generator=generator)]
        share = torch.rand(draws, generator=generator, dtype=torch.float64)
        positives = indices[indptr[users] + (share * counts[users]).long()]
        shape = (draws,) if self.negatives is None else (draws, self.negatives)
        drawn = torch.randint(self.data.n_items, shape, generator=generator)
        parts = (ids.split(self.batch) for ids in (users, positives, drawn))
        return list(zip(*parts, strict=True))


def recall(users: Tensor, items: Tensor, data: Interactions, k: int = 50) -> float:
    """Recall@k by dot products."""
    return evaluate_ranking(lambda ids: users[ids] @ items.T, data, ks=(k,)).recall[k]


def judge(data: Interactions) -> Callable[[QuantizedModel], dict[str, float]]:
    """An evaluation for the trainer."""
    return lambda model: {"recall@50": recall(*model.embeddings(), data)}


def encoder(data: Interactions, kind: str, dim: int = 16) -> nn.Module:
    """A table encoder or a graph encoder, always with the same initial weights."""
    torch.manual_seed(0)
    if kind == "table":
        return TableEncoder(data.n_users, data.n_items, dim)
    return LightGCN.for_interactions(data.n_users, data.n_items, *data.train_pairs(), dim=dim, layers=2)


def one_bit(
    data: Interactions, kind: str = "table", estimator: str = "gste", bounds: str = "per-row"
) -> QuantizedModel:
    """An encoder with one bit per value."""
    users, items = (make_quantizer(1, estimator, bounds, dim=16) for _ in range(2))
    return QuantizedModel(encoder(data, kind), users, items)


def state_of(model: QuantizedModel) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Interrupted:
    """Samples that exhaust the time limit: training stops after a number of batches."""

    def __init__(self, sampler: UserSampler, batches: int, stop: Callable[[], None]) -> None:
        self.sampler, self.left, self.stop = sampler, batches, stop

    def __call__(self, generator: torch.Generator) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        for sample in self.sampler(generator):
            self.left -= 1
            if self.left == 0:
                self.stop()
            yield sample
