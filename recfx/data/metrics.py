"""Metrics of click models: AUC, log loss, normalised entropy.

Labels and scores may be tensors or arrays of any shape, with equal numbers of elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recfx.errors import DataError

Values = ArrayLike | Tensor


def auc(label: Values, score: Values) -> float:
    """The area under the ROC curve: the probability that a random positive has a higher score than a random negative.

    Ties count half. The result is exact (integer counts of pairs), in O(n log n).

    Args:
        label: 0 or 1, [N].
        score: Scores on any real scale, including infinities, [N].

    Raises:
        DataError: A score is NaN, a label is not 0 or 1, there is only one class, or the lengths differ.
    """
    labels, scores = checked(label, score, both_classes=True)
    positive = labels.astype(np.int64)
    won = _pairs_won(scores, positive, 1 - positive)
    return float(won / (2 * int(positive.sum()) * int((1 - positive).sum())))


def expected_auc(probability: Values) -> float:
    """The expected AUC of a ranking by the true probabilities, for labels drawn from these probabilities.

    It is the expected number of correctly ordered (positive, negative) pairs, divided by the expected number of such
    pairs, over pairs of different rows. It takes O(n log n).

    Args:
        probability: The true probabilities, [N], N at least 2.

    Raises:
        DataError: A value is outside 0 to 1, or no two rows can have different labels.
    """
    p = to_float64(probability)
    if np.isnan(p).any() or (p < 0).any() or (p > 1).any():
        raise DataError(
            "probabilities must be numbers from 0 to 1", where="expected_auc", hint="pass probabilities, not logits"
        )
    own = float((p * (1 - p)).sum())  # pairs of a row with itself, which are ties and do not count
    pairs = float(p.sum()) * float((1 - p).sum()) - own
    if pairs <= 1e-12 * len(p):
        raise DataError(
            "labels drawn from these probabilities never have both classes",
            where="expected_auc",
            hint="pass at least two rows, and not all probabilities equal to 0 or all equal to 1",
        )
    return float(_pairs_won(p, p, 1 - p) / 2 - own / 2) / pairs


def log_loss(label: Values, score: Values, *, from_logits: bool = False) -> float:
    """The mean binary cross-entropy, in nats.

    Args:
        label: 0 or 1, [N].
        score: Predicted probabilities, clipped to [eps, 1 - eps] with eps of float64, or logits, [N].
        from_logits: Whether `score` holds logits, which are not clipped.

    Raises:
        DataError: A score is NaN, a probability is outside 0 to 1, a label is not 0 or 1, or the lengths differ.
    """
    labels, scores = checked(label, score)
    if from_logits:
        losses = np.logaddexp(0.0, np.where(labels, -scores, scores))
        return float(losses.mean())
    if (scores < 0).any() or (scores > 1).any():
        raise DataError(
            f"probabilities must be from 0 to 1, got {scores.min():g} to {scores.max():g}",
            where="log_loss",
            hint="pass from_logits=True for logits",
        )
    eps = np.finfo(np.float64).eps
    p = np.clip(scores, eps, 1 - eps)
    return float(-np.log(np.where(labels, p, 1 - p)).mean())


def normalized_entropy(label: Values, score: Values, *, from_logits: bool = False) -> float:
    """The log loss divided by the entropy of the observed click rate (He et al., 2014).

    The entropy is the log loss of a model that always predicts the click rate. A value below 1 is better than this model.

    Args:
        label: 0 or 1, [N].
        score: Predicted probabilities or logits, as for `log_loss`, [N].
        from_logits: Whether `score` holds logits.

    Raises:
        DataError: The arguments are errors for `log_loss`, or there is only one class, whose rate has no entropy.
    """
    labels, _ = checked(label, score, both_classes=True)
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss(label, score, from_logits=from_logits) / float(entropy)


def checked(
    label: Values, score: Values, *, both_classes: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Converts labels to flat booleans and scores to flat float64.

    Raises:
        DataError: The lengths differ or are 0, a label is not 0 or 1, a score is NaN, or a required class is missing.
    """
    labels, scores = to_float64(label), to_float64(score)
    if labels.shape != scores.shape:
        raise DataError(f"{labels.size} labels for {scores.size} scores", hint="give one score for each label")
    if labels.size == 0:
        raise DataError("the data have no rows", hint="pass at least one label and score")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if bad.size:
        raise DataError(
            f"labels must be 0 or 1, row {bad[0]} has {labels[bad[0]]:g}", hint="convert the labels to 0 and 1"
        )
    nan = np.flatnonzero(np.isnan(scores))
    if nan.size:
        raise DataError(
            f"{nan.size} of {scores.size} scores are NaN, the first in row {nan[0]}",
            hint="check the model for overflow or a division by zero",
        )
    positives = int(labels.sum())
    if both_classes and positives in (0, labels.size):
        raise DataError(
            f"all {labels.size} labels are {int(labels[0])}: the metric compares two classes",
            hint="measure on more rows",
        )
    return labels.astype(np.bool_), scores


def to_float64(values: Values) -> NDArray[np.float64]:
    """The elements of a tensor or array as a flat float64 array.

    Raises:
        DataError: They are not numbers.
    """
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    try:
        return np.asarray(array, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"expected numbers, got a {type(values).__name__} that cannot be read as such: {error}",
            hint="pass labels and scores as tensors, NumPy arrays or lists of numbers; clicks are 0 or 1",
        ) from error


def _pairs_won(scores: NDArray[np.float64], positive: NDArray[Any], negative: NDArray[Any]) -> Any:
    """Twice the (weighted) number of correctly ordered positive-negative pairs, where a tie counts half."""
    _, group = np.unique(scores, return_inverse=True)
    dtype = positive.dtype
    size = int(group.max()) + 1
    won_by = np.zeros(size, dtype)
    against = np.zeros(size, dtype)
    np.add.at(won_by, group, positive)
    np.add.at(against, group, negative)
    below = np.cumsum(against) - against
    total = (won_by * (2 * below + against)).sum()
    return int(total) if dtype.kind == "i" else float(total)
