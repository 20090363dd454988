"""Channels pruned by recfx and by torch-pruning from the same trained models, at equal multiply-adds: what each costs in AUC.

`python -m benchmarks pruning-peers --data CRITEO`; needs `pip install --no-deps torch-pruning`. torch-pruning removes the same part of each
layer, with its default importance (group magnitude) and with Taylor importance of the labels' loss. recfx then removes channels until the
program multiplies no more than the smallest of them, or the same part of each layer where torch-pruning has no result. All are trained for
one epoch on the answers of the unpruned model. AUC is measured on test rows that nothing else reads. A model that torch-pruning cannot
prune has a row that says so.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.environment import environment
from benchmarks.markdown import markdown
from benchmarks.pruning import PARTS
from recfx.capture import capture
from recfx.cost.arithmetic import arithmetic
from recfx.data import Batches, CtrData, auc, load_ctr, predict, train_ctr
from recfx.errors import MeasureError, RecfxError
from recfx.ir.program import Program
from recfx.learn import finetune
from recfx.pipeline import Pipeline
from recfx.zoo import MODELS

#: Way -> the passes of recfx, with `ratio` to fill in.
OWN = {
    "recfx, taylor": "canonicalize,prune-channels{{ratio={ratio}, amount=multiply-adds, importance=taylor, keep_means=true, round_to=8}}",
    "recfx, l2": "canonicalize,prune-channels{{ratio={ratio}, amount=multiply-adds, importance=l2, round_to=8}}",
}
#: Way -> the importance of torch-pruning.
PEERS = {
    "torch-pruning, magnitude": "GroupMagnitudeImportance",
    "torch-pruning, taylor": "GroupTaylorImportance",
}
_BATCH, _CALIBRATION, _COUNTED = 1024, 2048, 64
_RATE = 3e-4
_STEP, _MOST_STEPS = 0.01, 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        data: Path of the rows; None for generated ones.
        models: Keys of `PARTS`.
        seeds: The number of seeds, from 0 on.
        ratio: The part of the channels of each layer that torch-pruning removes.
        rows: The largest number of rows to read; None: all.
        epochs: The largest number of epochs of the unpruned models.
    """

    data: str | None
    models: Sequence[str] = tuple(PARTS)
    seeds: int = 3
    ratio: float = 0.5
    rows: int | None = None
    epochs: int = 3


@dataclasses.dataclass(frozen=True)
class Pruned:
    """One model of one seed, pruned in one way.

    Attributes:
        share: The multiply-adds of a row that are left.
        drops: The loss of AUC, not trained and trained on answers.
    """

    share: float
    drops: tuple[float, float]


def measure(settings: Settings) -> str:
    """Measures and returns the table, in Markdown.

    Raises:
        MeasureError: A model is unknown, there is no seed, or torch-pruning is not installed.
    """
    if unknown := set(settings.models) - PARTS.keys():
        raise MeasureError(f"no MLPs are known of {', '.join(sorted(unknown))}", hint=f"one of {', '.join(PARTS)}")
    if settings.seeds < 1:
        raise MeasureError("no seed to measure", hint="give --seeds 1 or more")
    require_peer()
    data = load_ctr(settings.data, max_rows=settings.rows)
    rows = []
    for name in settings.models:
        runs = [_run(name, data, seed, settings) for seed in range(settings.seeds)]
        for way in (*PEERS, *OWN):
            rows.append([name, way, *_cells([run[way] for run in runs])])
    known = f"{len(data.train):,} rows to train on, {len(data.test):,} to test on"
    return "\n\n".join(
        [
            f"{data.name}, {known}, {settings.seeds} seed(s), {settings.ratio:.0%} of the channels of each layer; "
            f"torch-pruning {require_peer().__version__}; {environment()['cpu']}, 1 thread",
            markdown(
                ["model", "pruned by", "multiply-adds left", "AUC, not trained", "AUC, trained on answers"],
                rows,
                {2, 3, 4},
            ),
        ]
    )


def require_peer() -> Any:
    """torch-pruning.

    Raises:
        MeasureError: It is not installed.
    """
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise MeasureError("torch-pruning is not installed", hint="pip install --no-deps torch-pruning") from error


def _run(name: str, data: CtrData, seed: int, settings: Settings) -> dict[str, Pruned | str]:
    """Trains one model and prunes it in every way."""
    torch.manual_seed(seed)
    cls: Any = MODELS[name]
    model: nn.Module = cls.for_criteo(data.cardinalities, dense=data.train.dense.shape[1])
    train_ctr(model, data, epochs=settings.epochs, seed=seed)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:_CALIBRATION]
    calibration = [data.train.inputs(part) for part in order.split(256)]
    program = capture(model.eval(), calibration[0])
    whole = multiply_adds(program)
    found: dict[str, Pruned | str] = {}
    shares = []
    for way, importance in PEERS.items():
        made = by_peer(model, data, order, importance, settings.ratio)
        if isinstance(made, str):
            found[way] = made
            continue
        share = multiply_adds(capture(made.eval(), calibration[0])) / whole
        shares.append(share)
        found[way] = Pruned(share, _drops(model, made, data, seed))
    for way, text in OWN.items():
        alone = text.format(ratio=settings.ratio).replace("amount=multiply-adds", "amount=channels")
        pruned = down_to(program, text, min(shares), calibration) if shares else _pruned(program, alone, calibration)
        module = pruned.as_module()
        found[way] = Pruned(multiply_adds(pruned) / whole, _drops(model, module, data, seed))
    return found


def by_peer(model: nn.Module, data: CtrData, rows: Tensor, importance: str, ratio: float) -> nn.Module | str:
    """A copy of a model, pruned by torch-pruning; or why it could not be.

    Args:
        model: The model, with logits as outputs.
        data: The data.
        rows: The rows of the training data for the Taylor importance.
        importance: The name of the class of the importance.
        ratio: The part of the channels of each layer.
    """
    peer = require_peer()
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.requires_grad_()
    last = [m for m in made.modules() if isinstance(m, nn.Linear) and m.out_features == 1]
    inputs = data.train.inputs(rows[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pruner = peer.pruner.MetaPruner(
                made,
                inputs,
                importance=getattr(peer.importance, importance)(),
                pruning_ratio=ratio,
                ignored_layers=last,
                round_to=8,
            )
            made.zero_grad()
            logits = made(*data.train.inputs(rows))
            nn.functional.binary_cross_entropy_with_logits(logits, data.train.label[rows].to(logits.dtype)).backward()
            pruner.step()
            made.zero_grad(set_to_none=True)
            made(*inputs)
        except Exception as error:  # noqa: BLE001 - whatever another library raises is a result here
            return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return made


def down_to(program: Program, text: str, share: float, calibration: Sequence[Any]) -> Program:
    """A program pruned until it has at most a share of its multiply-adds.

    Raises:
        MeasureError: The passes do not get there.
    """
    whole, ratio = multiply_adds(program), 1 - share
    for _ in range(_MOST_STEPS):
        try:
            pruned = _pruned(program, text.format(ratio=ratio), calibration)
        except RecfxError as error:
            raise MeasureError(
                f"recfx does not prune to {share:.0%} of the multiply-adds: {error.what}", hint="lower --ratio"
            ) from error
        if multiply_adds(pruned) <= share * whole:
            return pruned
        ratio += _STEP
    raise MeasureError(f"recfx does not prune to {share:.0%} of the multiply-adds", hint="lower --ratio")


def _pruned(program: Program, text: str, calibration: Sequence[Any]) -> Program:
    return Pipeline(text).run(program, resources={"calibration": list(calibration)}).program


def multiply_adds(program: Program) -> float:
    """The multiply-adds of `_COUNTED` rows."""
    return float(arithmetic(program, _COUNTED).multiply_adds)


def _drops(model: nn.Module, pruned: nn.Module, data: CtrData, seed: int) -> tuple[float, float]:
    """The loss of AUC on the test rows before and after training on the model's answers."""

    def fetch(picked: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return data.train.inputs(picked), data.train.label[picked]

    def score(module: nn.Module) -> float:
        return auc(data.test.label, predict(module, data.test))

    before, plain = score(model), score(pruned.eval())
    batches = Batches(len(data.train), fetch, _BATCH)
    try:
        tuned = finetune(pruned, batches, lr=_RATE, seed=seed, teacher=model).module
    except RecfxError as error:
        raise MeasureError(f"fine-tuning failed: {error.what}", where=error.where, hint=error.hint) from error
    return before - plain, before - score(tuned)


def _cells(runs: Sequence[Pruned | str]) -> list[str]:
    """The share, and the mean change of AUC with the worst seed."""
    refused = [run for run in runs if isinstance(run, str)]
    if refused:
        return [refused[0], "", ""]
    done = [run for run in runs if isinstance(run, Pruned)]
    changes = [[-run.drops[place] for run in done] for place in range(2)]
    cells = [f"{statistics.mean(change):+.5f} (worst {min(change):+.5f})" for change in changes]
    return [f"{statistics.mean(run.share for run in done):.3f}", *cells]
