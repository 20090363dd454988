"""Generated explicit feedback with known low-rank preferences, for models over users and items."""

from __future__ import annotations

import math

import numpy as np
import torch

from recfx.data.feedback import Feedback
from recfx.errors import DataError


def synthetic_feedback(
    users: int = 2000,
    items: int = 1000,
    factors: int = 8,
    *,
    per_user: int = 60,
    zipf: float = 0.8,
    scale: float = 2.0,
    test_share: float = 0.2,
    seed: int = 0,
) -> Feedback:
    """Generates judgements from a matrix-factorisation model.

    Each user judges up to `per_user` different items, drawn by a Zipf popularity, in a known order of time. The
    probability that a user likes an item is the sigmoid of `scale` times (the inner product of both factor vectors, with
    variance 1, plus a quality of the item, with variance 1/4).

    Args:
        users: Number of users.
        items: Number of items.
        factors: Rank of the preferences.
        per_user: Number of items drawn for each user; repeated items count once.
        zipf: Exponent of the items' popularity; 0 is uniform.
        scale: Strength of the preferences; with 0, labels do not depend on users and items.
        test_share: Share of the judgements held out at random for the test.
        seed: Seed of all draws.

    Returns:
        Feedback with `time` and the true `probability`.

    Raises:
        DataError: A size is below 1, or `test_share` is not between 0 and 1.
    """
    for name, value in (("users", users), ("items", items), ("factors", factors), ("per_user", per_user)):
        if value < 1:
            raise DataError(
                f"{name} must be at least 1, got {value}", where="synthetic_feedback", hint="pass 1 or more"
            )
    if not 0 < test_share < 1:
        raise DataError(
            f"test_share must be between 0 and 1, got {test_share}",
            where="synthetic_feedback",
            hint="pass a number such as 0.9",
        )
    rng = np.random.default_rng([seed, 3])
    user_factor = rng.standard_normal((users, factors))
    item_factor = rng.standard_normal((items, factors)) / math.sqrt(factors)
    quality = rng.standard_normal(items) / 2
    popularity = np.arange(1, items + 1, dtype=np.float64) ** -zipf
    names = rng.permutation(items)  # so that a small id does not mean a popular item
    met = names[rng.choice(items, size=(users, per_user), p=popularity / popularity.sum())]
    pair = np.unique(np.repeat(np.arange(users), per_user) * items + met.ravel())
    user, item = np.divmod(pair, items)
    logit = scale * ((user_factor[user] * item_factor[item]).sum(1) + quality[item])
    probability = 0.5 * (1 + np.tanh(logit / 2))
    return Feedback(
        user=torch.from_numpy(user),
        item=torch.from_numpy(item),
        positive=torch.from_numpy(rng.random(len(pair)) < probability),
        test=torch.from_numpy(rng.random(len(pair)) < test_share),
        n_users=users,
        n_items=items,
        time=torch.from_numpy(rng.permutation(len(pair))),
        probability=torch.from_numpy(probability.astype(np.float32)),
        name="synthetic",
    )
