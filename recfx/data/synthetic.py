"""Generated click data in the shape of Criteo, from a known model, so that the best possible AUC is known.

The ids of each field follow a bounded Zipf law. The true logit is

    bias + scale * (field effects + pairwise effects + dense effects), each part with variance about 1/3.

The pairwise effects are those of a factorisation machine (Rendle, 2010): the sum over pairs of fields of the inner
product of the ids' factors. Labels are drawn from the sigmoid of the logit, and a share of them is replaced by a fair
coin. The true probability of every row is known, and no model can exceed the AUC of the true probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recfx.data.ctr import CtrData, CtrSplit, split_rows
from recfx.data.metrics import expected_auc
from recfx.errors import DataError

# The field sizes of the Criteo challenge, as the code of the DLRM paper counts them, limited to 20,000.
CRITEO_SIZES = (
    *(1460, 583, 20_000, 20_000, 305, 24, 12_517, 633, 3, 20_000, 5683, 20_000, 3194),
    *(27, 14_992, 20_000, 10, 5652, 2173, 4, 20_000, 18, 15, 20_000, 105, 20_000),
)
_REFERENCE_ROWS = 100_000


@dataclass(frozen=True)
class CtrRecipe:
    """The description of data to generate.

    Attributes:
        rows: Number of rows in all three splits.
        cardinalities: Number of ids of each field.
        n_dense: Number of dense features.
        zipf: Exponent of the id distribution, P(id k) ~ (k + 1)^-zipf; 0 is uniform.
        rank: Length of the ids' factors, the rank of the pairwise effects.
        scale: Approximate standard deviation of the true logit; with 0, labels do not depend on the inputs.
        label_noise: Share of labels replaced by a fair coin.
        base_rate: Share of clicks in the population; between label_noise / 2 and 1 - label_noise / 2.
        seed: Seed of the model and of the rows.

    Raises:
        DataError: An attribute is out of range.
    """

    rows: int = 120_000
    cardinalities: tuple[int, ...] = CRITEO_SIZES
    n_dense: int = 13
    zipf: float = 1.1
    rank: int = 4
    scale: float = 1.7
    label_noise: float = 0.0
    base_rate: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cardinalities:
            raise DataError(
                "a recipe needs at least one sparse field",
                where="CtrRecipe.cardinalities",
                hint="give the number of ids of each field",
            )
        limits = {
            "rows": (10, math.inf),
            "n_dense": (0, math.inf),
            "zipf": (0, math.inf),
            "rank": (1, math.inf),
            "scale": (0, math.inf),
            "label_noise": (0, 1),
            "seed": (0, math.inf),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise DataError(
                    f"must be from {low} to {high}, got {value}",
                    where=f"CtrRecipe.{name}",
                    hint="pass a number in this range",
                )
        if min(self.cardinalities) < 1:
            raise DataError(
                f"every field needs at least one id, got {self.cardinalities}",
                where="CtrRecipe.cardinalities",
                hint="pass 1 or more",
            )
        margin = self.label_noise / 2
        if not margin < self.base_rate < 1 - margin:
            raise DataError(
                f"must lie strictly between {margin} and {1 - margin}, got {self.base_rate}",
                where="CtrRecipe.base_rate",
                hint="choose another base_rate or less label_noise: half of the noisy labels are clicks",
            )


class PlantedCtr:
    """The true model of generated data, which draws rows and computes their click probability.

    Args:
        recipe: The description of the data. Equal recipes give equal models.

    Attributes:
        recipe: The recipe.
        bias: The constant of the logit, chosen so that the population has the recipe's base rate.
        bayes_auc: The expected AUC of the true probability on 100,000 new rows.
    """

    def __init__(self, recipe: CtrRecipe) -> None:
        self.recipe = recipe
        rng = np.random.default_rng([recipe.seed, 0])
        fields = len(recipe.cardinalities)
        pairs = fields * (fields - 1) // 2
        self._cdf = [_zipf_cdf(size, recipe.zipf) for size in recipe.cardinalities]
        self._effect = [rng.standard_normal(size) / math.sqrt(fields) for size in recipe.cardinalities]
        unit = (max(pairs, 1) * recipe.rank) ** -0.25  # so that the sum over pairs has variance 1
        self._factor = [rng.standard_normal((size, recipe.rank)) * unit for size in recipe.cardinalities]
        self._spread = rng.uniform(0.5, 1.5, recipe.n_dense)
        self._centre = rng.uniform(0.5, 3.0, recipe.n_dense)
        self._slope = rng.standard_normal(recipe.n_dense) / math.sqrt(max(recipe.n_dense, 1))
        reference = self._draw_inputs(_REFERENCE_ROWS, np.random.default_rng([recipe.seed, 1]))
        signal = self._logit(*reference)
        self.bias = self._solve_bias(signal)
        self.bayes_auc = expected_auc(self._probability(signal + self.bias))

    def logit(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """The true logit without label noise, float64 [N], of dense [N, D] and sparse [N, F]."""
        return torch.from_numpy(self._logit(dense.numpy(), sparse.numpy()) + self.bias)

    def probability(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """The true click probability with label noise, float64 [N], of dense [N, D] and sparse [N, F]."""
        return torch.from_numpy(self._probability(self.logit(dense, sparse).numpy()))

    def sample(self, rows: int, seed: int) -> CtrSplit:
        """Draws a split with labels and true probabilities.

        Args:
            rows: Number of rows.
            seed: Seed of the rows and labels; the same seed gives the same split.
        """
        rng = np.random.default_rng([self.recipe.seed, 2, seed])
        dense, sparse = self._draw_inputs(rows, rng)
        probability = self._probability(self._logit(dense, sparse) + self.bias)
        label = rng.random(rows) < probability
        return CtrSplit(
            torch.from_numpy(dense),
            torch.from_numpy(sparse),
            torch.from_numpy(label.astype(np.float32)),
            torch.from_numpy(probability.astype(np.float32)),
        )

    def _draw_inputs(self, rows: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Draws log-normal counts, as log(1 + count) like the encoded Criteo numbers, and Zipf ids."""
        counts = np.floor(np.exp(self._centre + self._spread * rng.standard_normal((rows, self.recipe.n_dense))))
        sparse = np.empty((rows, len(self._cdf)), np.int64)
        for field, cdf in enumerate(self._cdf):
            sparse[:, field] = np.searchsorted(cdf, rng.random(rows), side="right")
        return np.log1p(counts).astype(np.float32), sparse

    def _logit(self, dense: NDArray[np.float32], sparse: NDArray[np.int64]) -> NDArray[np.float64]:
        """The logit without the bias."""
        # log1p(count) has about the same mean and spread as the normal exponent of the count.
        total = ((dense - self._centre) / self._spread) @ self._slope
        factor_sum = np.zeros((len(sparse), self.recipe.rank))
        own = np.zeros(len(sparse))
        for field, ids in enumerate(sparse.T):
            total += self._effect[field][ids]
            factor = self._factor[field][ids]
            factor_sum += factor
            own += (factor * factor).sum(1)
        total += ((factor_sum * factor_sum).sum(1) - own) / 2
        scaled: NDArray[np.float64] = total * (self.recipe.scale / math.sqrt(3))
        return scaled

    def _solve_bias(self, signal: NDArray[np.float64]) -> float:
        """Finds, by bisection, the bias at which the mean probability is the base rate; the mean rises with the bias."""
        high = float(np.abs(signal).max()) + 50
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            too_low = self._probability(signal + middle).mean() < self.recipe.base_rate
            low, high = (middle, high) if too_low else (low, middle)
        return (low + high) / 2

    def _probability(self, logit: NDArray[np.float64]) -> NDArray[np.float64]:
        noise = self.recipe.label_noise
        clean: NDArray[np.float64] = 0.5 * (1 + np.tanh(logit / 2))  # a sigmoid that cannot overflow
        return noise / 2 + (1 - noise) * clean


def synthetic_ctr(recipe: CtrRecipe | None = None) -> CtrData:
    """Generates click data, split 80/10/10, with `bayes_auc` and the true probability of each row.

    Args:
        recipe: The description of the data; `CtrRecipe()` by default.
    """
    recipe = recipe or CtrRecipe()
    truth = PlantedCtr(recipe)
    whole = truth.sample(recipe.rows, seed=0)
    assert whole.probability is not None
    parts = []
    for rows in map(torch.from_numpy, split_rows(recipe.rows, recipe.seed)):
        parts.append(CtrSplit(*whole.inputs(rows), whole.label[rows], whole.probability[rows]))
    train, valid, test = parts
    return CtrData(train, valid, test, recipe.cardinalities, name="synthetic", bayes_auc=truth.bayes_auc)


def _zipf_cdf(size: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    cdf: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    cdf[-1] = 1.0  # without this, rounding could lead to the id `size`
    return cdf
