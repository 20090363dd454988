"""What the tests of `recfx.learn` share: blocks of embeddings, planted preferences, a sampler and a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from hypothesis import strategies as st
from torch import Tensor

from recfx.data import Interactions, evaluate_ranking, synthetic_feedback
from recfx.learn import BITS, BOUNDS, ESTIMATORS, QuantizedModel, Quantizer, make_quantizer

DIM = 6


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
    """Interactions with something to learn."""
    return Interactions.from_feedback(synthetic_feedback(users, items, per_user=40, seed=seed))


class UserSampler:
    """|train| draws an epoch of a uniform user, a uniform item of theirs, and a uniform item."""

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
