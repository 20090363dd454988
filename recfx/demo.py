"""`recfx demo`: trains a model, optimizes it, and shows the measurements of both."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recfx.budget import AUC, Budget
from recfx.compiled import CompiledModel
from recfx.cost.comparison import Comparison
from recfx.cost.timing import compare
from recfx.data import ClickFigures, Interval, auc_difference, evaluate_ctr, predict, train_ctr
from recfx.demo_tasks import Task, task_for
from recfx.ir.printer import human_bytes
from recfx.optimizer import optimize
from recfx.preconditions import require_output, require_pipeline

BATCHES = (1, 64, 1024)
#: Rows that say which channels matter, for a model within a budget.
CALIBRATION_ROWS = 2048
_TABLE_WIDTH = 150


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A model that is compressed within a budget.

    Attributes:
        figures: Its figures on the test split.
        auc_change: Its AUC minus that of the trained model, with a paired bootstrap interval.
        compiled: The model; its report holds the certificate.
    """

    figures: ClickFigures
    auc_change: Interval
    compiled: CompiledModel


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """The measurements of the demo.

    Attributes:
        before: Figures of the trained model on the test split.
        after: Figures of the compiled model on the same rows.
        auc_change: AUC after minus before, with a paired bootstrap interval.
        largest_difference: Largest absolute difference of two logits.
        latency: Batch size -> interleaved timing of "eager", "compiled" and, with a budget, "compressed".
        state_bytes: Bytes of parameters and buffers before and after.
        compiled: The compiled model.
        compressed: The model within the budget; None without one.
    """

    before: ClickFigures
    after: ClickFigures
    auc_change: Interval
    largest_difference: float
    latency: dict[int, Comparison]
    state_bytes: tuple[int, int]
    compiled: CompiledModel
    compressed: Compressed | None = None


def run_demo(
    name: str = "deepfm",
    data: Path | None = None,
    *,
    seconds: float = 60.0,
    rows: int | None = None,
    pipeline: str | None = None,
    threads: int | None = None,
    save: Path | None = None,
    budget: float | None = None,
    seed: int = 0,
    label: str | None = None,
    timing_seconds: float = 2.0,
    progress: bool = True,
) -> DemoResult:
    """Trains a model of the zoo, optimizes it, compares, and prints the tables.

    Args:
        name: The model.
        data: File or folder of real data; generated data without it.
        seconds: Time for training.
        rows: Use at most this many rows of click-through data.
        pipeline: Passes to run; the default pipeline without it.
        threads: Threads torch may use.
        save: Folder to save the compiled model in; with a budget, the compressed one.
        budget: How much AUC a further, compressed model may lose; None for no such model.
        seed: Seed of data, weights and training.
        label: The column of labels of a CSV or Parquet file.
        timing_seconds: Time for measuring latency at each batch size.
        progress: Show progress bars on a terminal.

    Raises:
        RecfxError: The model is unknown, the data cannot be read, or `optimize` fails.
    """
    require_pipeline(pipeline)  # before the training, which takes minutes
    allowed = None if budget is None else Budget(budget)
    if save is not None:
        require_output(save)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    say = _Printer()
    task = task_for(name, data, rows=rows, seed=seed, label=label)
    model = task.model
    say.line(
        f"{name} on {task.data.name}: {len(task.data.train):,} rows to train on, {len(task.data.test):,} to test on"
    )
    log = train_ctr(model, task.data, epochs=4, seconds=seconds, seed=seed, progress=progress, forward=task.forward)
    say.line(f"trained {log.steps:,} steps in {log.seconds:.0f} s (stopped by {log.stopped})")
    compiled = optimize(model, target="cpu", example_inputs=task.inputs(64), pipeline=pipeline)
    compressed = None if allowed is None else _within(task, model, allowed, seed)
    result = _compare(task, model, compiled, compressed, timing_seconds)
    say.result(name, result, task.bayes_auc)
    if save is not None:
        (compressed or compiled).save(save)
        say.line(f"saved in {save}; next steps:")
        for text in serving_commands(save):
            say.command(text)
    return result


def serving_commands(folder: Path) -> list[str]:
    """Commands that serve a saved model, ask the server, and put a load on it."""
    program = Path(sys.argv[0])
    recfx = str(program) if program.name == "recfx" else "recfx"
    address = "http://127.0.0.1:8000"
    return [
        f"{recfx} serve {folder}",
        f"curl {address}/v2/models/{folder.stem}",
        f"{recfx} bench serve {address} --model {folder} --sizes 100",
    ]


def _within(task: Task, model: nn.Module, budget: Budget, seed: int) -> CompiledModel:
    """The model within a budget. The budget divides the validation rows in two; it does not see the test rows."""
    rows = torch.arange(min(len(task.data.train), CALIBRATION_ROWS)).split(512)
    return optimize(
        model,
        target="cpu",
        example_inputs=task.inputs(64),
        calibration=[task.arguments(*task.data.train.inputs(some)) for some in rows],
        evaluate=AUC(task.data.valid, forward=task.forward, seed=seed),
        budget=budget,
    )


def _compare(
    task: Task, model: nn.Module, compiled: CompiledModel, compressed: CompiledModel | None, timing_seconds: float
) -> DemoResult:
    test = task.data.test
    models = {"before": model, "after": compiled, **({} if compressed is None else {"compressed": compressed})}
    logits = {name: predict(f, test, forward=task.forward) for name, f in models.items()}
    figures = {name: evaluate_ctr(f, test, forward=task.forward) for name, f in models.items()}
    changes = {name: auc_difference(test.label, logits["before"], logits[name]) for name in models}
    served = {"compiled": compiled, **({} if compressed is None else {"compressed": compressed})}
    return DemoResult(
        before=figures["before"],
        after=figures["after"],
        auc_change=changes["after"],
        largest_difference=float((logits["before"] - logits["after"]).abs().max()),
        latency={batch: _latency(model, served, task.inputs(batch), timing_seconds) for batch in BATCHES},
        state_bytes=compiled.report.state_bytes,
        compiled=compiled,
        compressed=None if compressed is None else Compressed(figures["compressed"], changes["compressed"], compressed),
    )


def _latency(
    model: nn.Module, compiled: dict[str, CompiledModel], inputs: tuple[Tensor, ...], seconds: float
) -> Comparison:
    candidates: dict[str, Callable[[], Any]] = {"eager": _served(model, inputs)}
    candidates |= {name: partial(fast, *inputs) for name, fast in compiled.items()}
    return compare(candidates, seconds=seconds, baseline="eager")


def _served(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    """The model as a careful user would serve it: in eval mode, in inference mode."""

    def call() -> Any:
        with torch.inference_mode():
            return model(*inputs)

    return call


class _Printer:
    """Writes the demo's lines and tables to the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        if self._console.width < _TABLE_WIDTH and not self._console.is_terminal:
            self._console = Console(highlight=False, width=_TABLE_WIDTH)  # a pipe or a file has no width of its own

    def line(self, text: str) -> None:
        self._console.print(text)

    def command(self, text: str) -> None:
        self._console.print(f"  {text}", soft_wrap=True)  # so that it can be copied

    def result(self, name: str, result: DemoResult, bayes_auc: float | None) -> None:
        self._console.print(self._comparison(name, result, bayes_auc))
        self._console.print(self._passes(result.compiled))
        for notice in result.compiled.report.notices:
            self.line(f"note: {notice}")
        change = result.auc_change
        self.line(
            f"AUC change {change.estimate:+.6f} (95 % interval {change.low:+.6f} to {change.high:+.6f}), "
            f"largest difference of two logits {result.largest_difference:.3g}"
        )
        if result.compressed is not None:
            self.line(str(result.compressed.compiled.report.budget))
        if result.compiled.report.kept_eager:
            self.line("the compiled model measured slower than the original, so the original runs (do no harm)")

    def _comparison(self, name: str, result: DemoResult, bayes_auc: float | None) -> Any:
        from rich.table import Table

        small = result.compressed
        names = ["compiled"] + ["compressed"] * (small is not None)
        table = Table(title=f"{name}, {next(iter(result.latency.values())).threads} thread(s)")
        titles = ["", "before", "after", "after / before (95 % interval)"]
        for column in titles + ["compressed", "compressed / before"] * (small is not None):
            table.add_column(column, justify="left" if not column else "right")
        before, after = result.before, result.after
        best = f" (at best {bayes_auc:.4f})" if bayes_auc is not None else ""
        of_small = [f"{small.figures.auc:.6f}", f"{small.auc_change.estimate:+.6f}"] if small is not None else []
        table.add_row(f"AUC{best}", f"{before.auc:.6f}", f"{after.auc:.6f}", "", *of_small)
        loss = [f"{small.figures.log_loss:.6f}", ""] if small is not None else []
        table.add_row("log loss", f"{before.log_loss:.6f}", f"{after.log_loss:.6f}", "", *loss)
        for batch, timing in result.latency.items():
            old = timing.timings["eager"]
            medians, tails = [], []
            for each in names:
                ratio, new = timing.ratios[each], timing.timings[each]
                medians += [f"{new.median * 1e6:,.0f} µs", f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"]
                tails += [f"{new.p99 * 1e6:,.0f} µs", f"{new.p99 / old.p99:.2f}"]
            table.add_row(f"batch {batch}, p50", f"{old.median * 1e6:,.0f} µs", *medians)
            table.add_row(f"batch {batch}, p99", f"{old.p99 * 1e6:,.0f} µs", *tails)
        bytes_before, bytes_after = result.state_bytes
        sizes = [bytes_after] + [small.compiled.report.state_bytes[1] for small in [result.compressed] if small]
        cells = [cell for size in sizes for cell in (human_bytes(size), f"{size / max(bytes_before, 1):.2f}")]
        table.add_row("bytes", human_bytes(bytes_before), *cells)
        return table

    def _passes(self, compiled: CompiledModel) -> Any:
        from rich.table import Table

        table = Table(title="rewrites of each pass")
        for column in ("pass", "exactness", "rewrites", "operators", "bytes", "time"):
            table.add_column(column, justify="left" if column in ("pass", "exactness") else "right")
        for record in compiled.report.passes:
            table.add_row(
                record.text,
                record.exactness,
                str(record.fired),
                f"{record.operators[0]} → {record.operators[1]}",
                f"{human_bytes(record.state_bytes[0])} → {human_bytes(record.state_bytes[1])}",
                f"{(record.seconds + record.verify_seconds) * 1e3:.0f} ms",
            )
        return table
