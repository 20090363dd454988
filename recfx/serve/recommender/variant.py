"""A recommender as the variant that an engine serves, with its measured times."""

from __future__ import annotations

import statistics
import time

import torch

from recfx.errors import ArtifactError, RecfxError
from recfx.serve.engine.variants import Variant
from recfx.serve.policies.times import ServiceTimes
from recfx.serve.recommender.interface import RecommenderInterface
from recfx.serve.recommender.recommender import Recommender

_USERS = (1, 4, 16, 64)
_ROUNDS = 5


def recommender_variant(recommender: Recommender, name: str, threads: int, *, quality: float = 0.0) -> Variant:
    """Measures a recommender, which has then run.

    Args:
        recommender: The recommender.
        name: Its name in metrics.
        threads: Threads of each call.
        quality: The metric of its certificate.

    Raises:
        ArtifactError: It does not run.
    """
    interface = RecommenderInterface(recommender)
    before, times = torch.get_num_threads(), {}
    torch.set_num_threads(threads)
    try:
        for users in _USERS:
            leaves = interface.leaves(recommender.example(users))
            times[users] = statistics.median(_seconds(interface, leaves) for _ in range(_ROUNDS))
    except RecfxError as error:
        raise ArtifactError(f"the recommender does not run on drawn inputs: {error.in_one_line}", where=name) from error
    finally:
        torch.set_num_threads(before)
    return Variant(name, interface, ServiceTimes(times), quality, recommender.digest)


def _seconds(interface: RecommenderInterface, leaves: list[torch.Tensor]) -> float:
    begun = time.perf_counter()
    interface.call(leaves)
    return time.perf_counter() - begun
