"""The clock, the learning rate and the deterministic algorithms of a training run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recfx.learn.train_settings import TrainSettings


def set_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, epochs_done: float) -> None:
    """Sets the learning rates of a step. With `cosine_epochs`, they are (1 + cos(pi * share of the epochs done)) / 2 of
    the first rates."""
    if settings.cosine_epochs is None:
        return
    share = min(epochs_done / settings.cosine_epochs, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 + math.cos(math.pi * share)) / 2


class Clock:
    """Time spent, the budget, and when the next checkpoint is due."""

    def __init__(self, settings: TrainSettings, before: float) -> None:
        self._settings = settings
        self._before = before
        self._begun = self._saved = time.perf_counter()

    def spent(self) -> float:
        """Seconds, earlier calls included."""
        return self._before + time.perf_counter() - self._begun

    def share(self) -> float:
        """The used share of the budget of this call; 0 without a budget."""
        seconds = self._settings.seconds
        return 0.0 if seconds is None else (time.perf_counter() - self._begun) / max(seconds, 1e-9)

    def out(self) -> bool:
        """Whether the budget is used up."""
        return self.share() >= 1

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; true once per checkpoint."""
        now = time.perf_counter()
        due = now - self._saved >= self._settings.checkpoint_seconds
        self._saved = now if due else self._saved
        return due


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Enables deterministic algorithms inside the block, without torch's filling of uninitialised memory, which costs
    time and changes no result."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags: Any = torch.utils.deterministic
    filled = flags.fill_uninitialized_memory
    if wanted:
        torch.use_deterministic_algorithms(True)
        flags.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        flags.fill_uninitialized_memory = filled
