"""What surrounds the steps of training: the time they may take, the learning rate, and deterministic algorithms."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recfx.learn.train_settings import TrainSettings


def set_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, epochs_done: float) -> None:
    """Sets the learning rates of a step: where they fall, (1 + cos(pi * share of the epochs done)) / 2 of the first ones."""
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
        """Of the budget of this call that is used; 0 without one."""
        seconds = self._settings.seconds
        return 0.0 if seconds is None else (time.perf_counter() - self._begun) / max(seconds, 1e-9)

    def out(self) -> bool:
        """Whether the budget is used up."""
        return self.share() >= 1

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint; asks for one only once."""
        now = time.perf_counter()
        due = now - self._saved >= self._settings.checkpoint_seconds
        self._saved = now if due else self._saved
        return due


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms inside the block; memory is not filled beforehand, which costs time and changes nothing."""
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
