"""Pruned click models on real data: what half of the channels of the MLPs costs in AUC, without and with fine-tuning, and what it saves.

`python -m benchmarks pruning --data CRITEO`. Each model is trained until its validation AUC falls, loses half of its channels by
their Taylor importance, and is trained for one epoch, on labels or on the answers of the unpruned model. A change of AUC is the mean over
the seeds, on test rows that no choice saw. Times are CPU times of one thread, of the unpruned and the pruned model in turns.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import recfx
from benchmarks.environment import environment
from benchmarks.markdown import markdown
from recfx.capture import capture
from recfx.data import Batches, CtrData, auc, load_ctr, predict, train_ctr
from recfx.errors import MeasureError
from recfx.ir.program import Program
from recfx.learn import finetune
from recfx.pipeline import Pipeline
from recfx.zoo import MODELS

#: Model of the zoo -> its MLPs.
PARTS = {"deepfm": ("deep",), "dcn-v2": ("deep", "output"), "dlrm": ("bottom", "top")}
PRUNING = "canonicalize,prune-channels{ratio=0.5, importance=taylor, round_to=8}"

_BATCH = 1024
_RATE = 3e-4
_CALIBRATION = 2048
_TURN = 0.01  # seconds of calls in a turn, far above the resolution of the clock
_WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        data: Path of the rows; None for generated ones.
        models: Keys of `PARTS`.
        seeds: The number of seeds, from 0 on.
        batches: Batch sizes of the times.
        rounds: Turns of each model at a batch size.
        rows: The largest number of rows to read; None: all.
        epochs: The largest number of epochs of the unpruned models.
        pruning: The passes that prune.
    """

    data: str | None
    models: Sequence[str] = tuple(PARTS)
    seeds: int = 3
    batches: Sequence[int] = (1, 16, 256, 1024)
    rounds: int = 15
    rows: int | None = None
    epochs: int = 3
    pruning: str = PRUNING


@dataclasses.dataclass(frozen=True)
class Run:
    """One model of one seed.

    Attributes:
        auc: On the test rows, unpruned.
        drops: Way of pruning -> loss of AUC.
        model: The unpruned model.
        program: The pruned program after fine-tuning.
    """

    auc: float
    drops: Mapping[str, float]
    model: nn.Module
    program: Program


def measure(settings: Settings) -> str:
    """Measures and returns the tables, in Markdown.

    Raises:
        MeasureError: A model is unknown, or there is no seed.
    """
    if unknown := set(settings.models) - PARTS.keys():
        raise MeasureError(f"no MLPs are known of {', '.join(sorted(unknown))}", hint=f"one of {', '.join(PARTS)}")
    if settings.seeds < 1:
        raise MeasureError("no seed to measure", hint="give --seeds 1 or more")
    data = load_ctr(settings.data, max_rows=settings.rows)
    losses, times = [], []
    for name in settings.models:
        runs = [_run(name, data, seed, settings) for seed in range(settings.seeds)]
        losses.append([name, f"{statistics.mean(run.auc for run in runs):.4f}", *_drops(runs), _work(name, runs[0])])
        for batch in settings.batches:
            inputs = data.test.inputs(torch.arange(batch) % len(data.test))
            times.append([name, f"{batch:,}", *_ratios(name, runs[0], inputs, settings.rounds)])
    rows = f"{len(data.train):,} rows to train on, {len(data.test):,} to test on"
    drops = ["not trained", "trained on labels", "trained on answers"]
    return "\n\n".join(
        [
            f"{data.name}, {rows}, {settings.seeds} seed(s); {environment()['cpu']}, 1 thread",
            markdown(["model", "AUC", *drops, "multiply-adds of the MLPs"], losses, {1, 2, 3, 4, 5}),
            markdown(["model", "batch", "MLPs, pruned / unpruned", "whole model"], times, {1, 2, 3}),
        ]
    )


def _run(name: str, data: CtrData, seed: int, settings: Settings) -> Run:
    """Trains, prunes and fine-tunes one model."""
    torch.manual_seed(seed)
    cls: Any = MODELS[name]
    model: nn.Module = cls.for_criteo(data.cardinalities, dense=data.train.dense.shape[1])
    train_ctr(model, data, epochs=settings.epochs, seed=seed)
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:_CALIBRATION].split(256)
    calibration = [data.train.inputs(part) for part in rows]
    program = capture(model.eval(), calibration[0])
    pruned = Pipeline(settings.pruning).run(program, resources={"calibration": calibration}).program

    def fetch(picked: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return data.train.inputs(picked), data.train.label[picked]

    batches = Batches(len(data.train), fetch, _BATCH)
    labels = finetune(pruned, batches, lr=_RATE, seed=seed).module
    taught = finetune(pruned, batches, lr=_RATE, seed=seed, teacher=model)
    before = auc(data.test.label, predict(model, data.test))
    after = {"not trained": pruned.as_module(), "trained on labels": labels, "trained on answers": taught.module}
    drops = {way: before - auc(data.test.label, predict(module, data.test)) for way, module in after.items()}
    return Run(before, drops, model, taught.program)


def _drops(runs: Sequence[Run]) -> list[str]:
    """The loss of AUC of each way: the mean, and the largest over the seeds."""
    found = []
    for way in runs[0].drops:
        values = [run.drops[way] for run in runs]
        found.append(f"{-statistics.mean(values):+.5f} (worst {-max(values):+.5f})")
    return found


def _work(name: str, run: Run) -> str:
    """The multiply-adds of the MLPs of one row, pruned and unpruned."""
    pruned, whole = (
        sum(linear.weight.numel() for part in parts for linear in part.modules() if isinstance(linear, nn.Linear))
        for parts in (pruned_parts(run.model, run.program, PARTS[name]), [getattr(run.model, p) for p in PARTS[name]])
    )
    return f"{pruned / 1000:,.0f}k of {whole / 1000:,.0f}k ({pruned / whole:.2f})"


def pruned_parts(model: nn.Module, program: Program, names: Sequence[str]) -> list[nn.Module]:
    """Submodules of a model with the weights that a pruned program has under their names."""
    held, found = program.state(), []
    for name in names:
        part = copy.deepcopy(getattr(model, name))
        for path, layer in part.named_modules():
            if isinstance(layer, nn.Linear):
                stem = ".".join(filter(None, (name, path)))
                layer.weight = nn.Parameter(held[f"{stem}.weight"].detach().clone())
                layer.bias = None if layer.bias is None else nn.Parameter(held[f"{stem}.bias"].detach().clone())
                layer.out_features, layer.in_features = layer.weight.shape
        found.append(part)
    return found


def _ratios(name: str, run: Run, inputs: tuple[Tensor, ...], rounds: int) -> list[str]:
    """CPU time after pruning over that before, of the MLPs and of the whole model: the median, and the middle half of the turns."""
    rows = len(inputs[0])
    smaller = pruned_parts(run.model, run.program, PARTS[name])
    whole = [getattr(run.model, part) for part in PARTS[name]]
    mlps = [turns_of(_calls(parts, rows)) for parts in (whole, smaller)]
    models = [turns_of(_compiled_call(module.eval(), inputs)) for module in (run.model, run.program.as_module())]
    return [_quartiles(*interleaved(pair[0], pair[1], rounds)) for pair in (mlps, models)]


def _calls(parts: Sequence[nn.Module], rows: int) -> Callable[[], None]:
    """One call of each of several MLPs, compiled."""
    calls = []
    for part in parts:
        first = next(layer for layer in part.modules() if isinstance(layer, nn.Linear))
        calls.append(_compiled_call(part.eval(), (torch.randn(rows, first.in_features),)))

    def call() -> None:
        for each in calls:
            each()

    return call


def _compiled_call(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    example = tuple(torch.cat([tensor, tensor])[: max(len(tensor), 2)] for tensor in inputs)
    fast = recfx.optimize(module, "native", example_inputs=example, measure=False)
    return lambda: fast(*inputs)


def turns_of(call: Callable[[], None]) -> Callable[[], float]:
    """A function that runs a call for some milliseconds and returns the CPU seconds of one call."""
    for _ in range(_WARM_UP):
        call()
    begun = time.process_time()
    count = 0
    while time.process_time() - begun < _TURN:
        call()
        count += 1

    def turn() -> float:
        started = time.process_time()
        for _ in range(count):
            call()
        return (time.process_time() - started) / count

    return turn


def interleaved(
    before: Callable[[], float], after: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """The times of two models in turns, so that other work of the machine reaches both."""
    pairs = [(before(), after()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _quartiles(before: Sequence[float], after: Sequence[float]) -> str:
    ratios = [second / first for first, second in zip(before, after, strict=True)]
    middle = statistics.median(ratios)
    if len(ratios) < 2:
        return f"{middle:.2f}"
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
