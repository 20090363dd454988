"""Gradual pruning: channels go in several stages, with training between them.

After stage k of n, the part s_k = s (1 - (1 - k / n)^3) of the channels is gone: many at first, while others can take over their part, and
few at the end (Zhu and Gupta 2017, "To prune, or not to prune", equation 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from recfx.errors import InputError
from recfx.ir.program import Program
from recfx.learn.finetuning.finetune import FineTuned, finetune
from recfx.learn.finetuning.task_loss import TaskLoss
from recfx.learn.train_settings import TrainReport
from recfx.passes.prune.prune_channels import PruneChannels
from recfx.pipeline import Pass, Pipeline


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of gradual pruning.

    Attributes:
        ratio: The part that is gone after it.
        report: The training after it.
    """

    ratio: float
    report: TrainReport


@dataclasses.dataclass(frozen=True)
class GraduallyPruned(FineTuned):
    """The result of `prune_gradually`; `report` is that of the last stage.

    Attributes:
        stages: All stages.
    """

    stages: tuple[Stage, ...] = ()


def cubic_ratios(ratio: float, stages: int) -> list[float]:
    """The part that is gone after each stage.

    Raises:
        InputError: There is no stage, or the ratio is not between 0 and 1.
    """
    if stages < 1 or not 0 < ratio < 1:
        raise InputError(
            f"cannot prune {ratio} in {stages} stages",
            where="prune_gradually",
            hint="give a ratio above 0 and below 1 and one stage or more",
        )
    return [ratio * (1 - (1 - k / stages) ** 3) for k in range(1, stages + 1)]


def prune_gradually(
    program: Program,
    loader: Iterable[Any],
    loss: str | TaskLoss = "bce",
    *,
    pruning: str | Pass | Pipeline = "canonicalize,prune-channels{ratio=0.5}",
    stages: int = 4,
    calibration: Any = None,
    teacher: Program | nn.Module | None = None,
    folder: str | Path | None = None,
    **training: Any,
) -> GraduallyPruned:
    """Prunes a program in stages and trains it after each.

    Args:
        program: The program, which stays as it is.
        loader: See `finetune`.
        loss: See `finetune`.
        pruning: Passes of which one is `prune-channels`; its ratio is that after the last stage, a part of `program`.
        stages: The number of stages.
        calibration: The inputs of some hundred rows, for importances that need them, see `prune-channels`.
        teacher: A better model whose answers are learned; often `program` itself.
        folder: The folder of checkpoints, with one folder for each stage. A stopped run continues from it.
        **training: Other arguments of `finetune`, for each stage: `epochs`, `lr`, `settings`, `evaluate` and so on.

    Returns:
        The trained module, and the report of each stage.

    Raises:
        InputError: The passes have no `prune-channels`, or several; or see `finetune`.
        PassError: The pruning failed.
    """
    passes = Pipeline(pruning)
    ratios = cubic_ratios(_pruner(passes).ratio, stages)
    resources = {"unpruned": program} | ({} if calibration is None else {"calibration": calibration})
    current, done = program, []
    for number, ratio in enumerate(ratios):
        smaller = Pipeline([dataclasses.replace(p, ratio=ratio) if isinstance(p, PruneChannels) else p for p in passes])
        pruned = smaller.run(current, resources=resources).program
        own = None if folder is None else Path(folder) / f"stage-{number + 1}"
        tuned = finetune(pruned, loader, loss, teacher=teacher, folder=own, **training)
        current = tuned.program
        done.append(Stage(ratio, tuned.report))
    return GraduallyPruned(tuned.module, tuned.report, tuple(done))


def _pruner(passes: Pipeline) -> PruneChannels:
    found = [p for p in passes if isinstance(p, PruneChannels)]
    if len(found) != 1:
        raise InputError(
            f"expected one prune-channels among the passes, got {len(found)}",
            where=str(passes),
            hint='such as pruning="canonicalize,prune-channels{ratio=0.5}"',
        )
    return found[0]
