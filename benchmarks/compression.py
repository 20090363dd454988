"""Compression under an accuracy budget: AUC and bytes of trained models, quantised blindly and within a budget.

`python -m benchmarks compression MODELS --data PATH --out FILE`. Data are divided in train, validation (half for choices and half for the
certificate) and test, which neither training nor the budget sees. The file holds the finished models, and the same command continues.
"""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import recfx
from benchmarks.markdown import markdown
from recfx import zoo
from recfx.budget.compositions import Compositions
from recfx.budget.settings import KINDS
from recfx.budget.units import least_harm, setting_of_options
from recfx.capture import MAX_BATCH
from recfx.cost.comparison import Comparison
from recfx.cost.timing import compare
from recfx.data import CtrData, Interval, auc, auc_difference, predict, train_ctr
from recfx.demo_tasks import CTR_MODELS, Task, task_for
from recfx.driver.build import open_road, stages_of
from recfx.driver.options import Options
from recfx.errors import InputError
from recfx.formats.records import decode
from recfx.pipeline import Pipeline

MODELS = ("deepfm", "dcn-v2", "dlrm")

#: The way of `BLIND` that needs calibration data.
CALIBRATED = "int8, calibrated"

#: How a model is compressed without a budget -> the options of `optimize`.
BLIND: dict[str, dict[str, Any]] = {
    "int8": {"precision": "int8"},
    CALIBRATED: {"extra_passes": {"after:mlp": "quantize-tables,quantize-linears{migrate=True, correct_bias=True}"}},
    "4-bit tables, int8 layers": {
        "extra_passes": {"after:mlp": "quantize-tables{bits=4, refine=true},quantize-tables{bits=16},quantize-linears"}
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One model compressed in one way.

    Attributes:
        model: The name of the model, and the columns of its tables.
        seed: The seed of the data, the weights and the training.
        how: How it was compressed.
        before: AUC of the trained model on the test rows.
        drop: The drop on the test rows, and the ends of its paired 95 % interval.
        bytes: Bytes of parameters and buffers before and after.
        certificate: For a budget: the drop and its interval on the certificate's rows; else None.
        met: Whether the budget was met; None without a budget.
        evaluations: How often a model was measured; None without a budget.
        chosen: Form -> the number of groups that took it; empty without a budget.
        p99: The 99th percentile of a call at batch 1 as a multiple of eager's in float32; None if too few calls were timed.
        throughput: Rows a second at batch 1024 as a multiple of eager's; None if nothing was timed.
    """

    model: str
    seed: int
    how: str
    before: float
    drop: tuple[float, float, float]
    bytes: tuple[int, int]
    certificate: tuple[float, float, float] | None = None
    met: bool | None = None
    evaluations: int | None = None
    chosen: dict[str, int] = dataclasses.field(default_factory=dict)
    p99: float | None = None
    throughput: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models: Names of models of the zoo.
        data: File or folder of the data; None for generated data.
        seeds: The number of seeds.
        budget: The largest drop of AUC.
        seconds: The limit of the training of a model.
        rows: The most rows of click-through data; None for all.
        dim: The columns of the tables; None for the model's own number.
        ablation: Whether the budget is also met with each component alone and with all but one.
        timing: Seconds for the times of a compressed model at a batch size; 0 for no times.
        prefer: What the budget saves.
    """

    models: tuple[str, ...]
    data: Path | None
    seeds: int = 3
    budget: float = 1e-3
    seconds: float = 120.0
    rows: int | None = None
    dim: int | None = None
    ablation: bool = False
    timing: float = 0.0
    prefer: Literal["both", "bytes", "time"] = "both"


def measure(plan: Plan, out: Path, tell: Callable[[str], object]) -> list[Row]:
    """Measures what the file does not hold yet, and returns all rows.

    Args:
        plan: What to measure.
        out: The file of the results.
        tell: Called with a line after each model.
    """
    rows = read(out) if out.exists() else []
    done = {(row.model, row.seed) for row in rows}
    for name in plan.models:
        for seed in range(plan.seeds):
            label = name if plan.dim is None else f"{name} dim={plan.dim}"
            if (label, seed) in done:
                continue
            new = [dataclasses.replace(row, model=label) for row in _rows(plan, name, seed)]
            rows += new
            out.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
            tell(f"{label}, seed {seed}: " + "; ".join(f"{row.how} {row.drop[0]:+.6f}" for row in new))
    return rows


def read(file: Path) -> list[Row]:
    """The rows of a file of results."""
    return [decode(Row, row, str(file)) for row in json.loads(file.read_text())]


def _rows(plan: Plan, name: str, seed: int) -> Iterator[Row]:
    torch.manual_seed(seed)
    task = _task(plan, name, seed)
    train_ctr(task.model, task.data, epochs=4, seconds=plan.seconds, seed=seed, forward=task.forward)
    for how, options in BLIND.items():
        data = {"calibration": _calibration(task)} if how == CALIBRATED else {}
        yield _row(name, seed, how, task, _compiled(task, **options, **data))
    yield from _uniform_and_guided(name, seed, task)
    metric = recfx.AUC(task.data.valid, forward=task.forward, seed=seed)
    for how, kinds in _components(plan).items():
        fast = _compiled(
            task,
            evaluate=metric,
            budget=recfx.Budget(plan.budget, prefer=plan.prefer, kinds=kinds),
            calibration=_calibration(task),
        )
        found = fast.report.budget
        assert found is not None
        assert found.interval is not None
        p99, throughput = _speed(plan, task, fast)
        yield dataclasses.replace(
            _row(name, seed, how, task, fast),
            certificate=(found.drop, *found.interval),
            met=found.met,
            evaluations=found.evaluations,
            chosen=dict(Counter(choice.chosen for choice in found.choices)),
            p99=p99,
            throughput=throughput,
        )


def _components(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Ways to use the budget -> what may be compressed."""
    whole = f"budget {plan.budget:g}"
    found: dict[str, tuple[str, ...]] = {whole: KINDS}
    if plan.ablation:
        found |= {f"{whole}, {kind} alone": (kind,) for kind in KINDS if kind != "ranks"}
        found |= {
            f"{whole}, all but {kind}": tuple(k for k in KINDS if k != kind) for kind in KINDS if kind != "layers"
        }
        found[f"{whole}, all but layers and ranks"] = tuple(k for k in KINDS if k not in ("layers", "ranks"))
    return found


def _uniform_and_guided(name: str, seed: int, task: Task) -> Iterator[Row]:
    """All tables in one width, and widths of as many bytes by their estimated harm."""
    model, example = task.model, task.inputs(64)
    calibration = _calibration(task)[:8]
    options = Options("native", Pipeline([]), lenient=True, max_batch=MAX_BATCH, measure=False)
    with stages_of(name, shown=False) as stages:
        road = open_road(model, options, example, {}, weakref.ref(model), stages)
    found = Compositions(road, (), calibration, kinds=("tables",))
    found.rank()
    for bits in ("4 bits", "2 bits"):
        forms = [next((o for o in unit if bits in dict(o.forms).values()), unit[0]) for unit in found.units]
        saved = sum(option.bytes for option in forms)
        for how, options_of in ((f"all tables {bits}", forms), (f"guided, as {bits}", least_harm(found.units, saved))):
            fast = recfx.CompiledModel(found.built(setting_of_options(options_of)))
            yield _row(name, seed, how, task, fast)


def _speed(plan: Plan, task: Task, fast: recfx.CompiledModel) -> tuple[float | None, float | None]:
    """The 99th percentile at batch 1 and the throughput at batch 1024, as multiples of eager's."""
    if not plan.timing:
        return None, None
    one, many = (_timed(task, fast, batch, plan.timing) for batch in (1, 1024))
    eager, compressed = one.timings["eager"], one.timings["compressed"]
    p99 = compressed.p99 / eager.p99 if compressed.has_p99 and eager.has_p99 else None
    return p99, 1 / many.ratios["compressed"].value


def _timed(task: Task, fast: recfx.CompiledModel, batch: int, seconds: float) -> Comparison:
    inputs = task.inputs(batch)

    def eager() -> Any:
        with torch.inference_mode():
            return task.model(*inputs)

    calls = {"eager": eager, "compressed": lambda: fast(*inputs)}
    return compare(calls, seconds=seconds, baseline="eager", single_calls=True)


def _task(plan: Plan, name: str, seed: int) -> Task:
    task = task_for(name, plan.data, rows=plan.rows, seed=seed)
    if plan.dim is None:
        return task
    if name not in CTR_MODELS:
        raise InputError(
            f"{name} has its own number of columns", hint=f"leave out --dim, or use {', '.join(sorted(CTR_MODELS))}"
        )
    assert isinstance(task.data, CtrData)
    cls: Any = zoo.MODELS[name]
    return dataclasses.replace(task, model=cls.for_criteo(task.data.cardinalities, task.data.n_dense, plan.dim))


def _calibration(task: Task) -> list[Any]:
    rows = torch.arange(len(task.data.train)).split(512)
    return [task.arguments(*task.data.train.inputs(some)) for some in rows]


def _compiled(task: Task, **options: Any) -> recfx.CompiledModel:
    return recfx.optimize(task.model, "native", example_inputs=task.inputs(64), measure=False, **options)


def _row(name: str, seed: int, how: str, task: Task, fast: recfx.CompiledModel) -> Row:
    change = _change(task, task.model, fast)
    before = auc(task.data.test.label, predict(task.model, task.data.test, forward=task.forward))
    return Row(name, seed, how, before, (-change.estimate, -change.high, -change.low), fast.report.state_bytes)


def _change(task: Task, model: nn.Module, fast: recfx.CompiledModel) -> Interval:
    test = task.data.test
    scores = [predict(each, test, forward=task.forward) for each in (model, fast)]
    return auc_difference(test.label, *scores)


def report(rows: Sequence[Row]) -> str:
    """The table of all rows, with the mean over the seeds of each model."""
    head = [
        "model",
        "how",
        "seed",
        "AUC",
        "drop on test [95 %]",
        "bytes",
        "certificate [95 %]",
        "met",
        "evaluations",
        "p99",
        "throughput",
        "groups",
    ]
    cells = []
    for model, how in dict.fromkeys((row.model, row.how) for row in rows):
        own = [row for row in rows if (row.model, row.how) == (model, how)]
        cells += [_cells(row) for row in own]
        if len(own) > 1:
            mean = sum(row.drop[0] for row in own) / len(own)
            largest = max(row.drop[0] for row in own)
            size = sum(row.bytes[1] / row.bytes[0] for row in own) / len(own)
            cells.append([model, how, "mean", "", f"{mean:+.5f}, at most {largest:+.5f}", f"{size:.3f} ×", *[""] * 6])
    return markdown(head, cells, {2, 3, 5, 8, 9, 10})


def _cells(row: Row) -> list[str]:
    chosen = ", ".join(f"{count} {form}" for form, count in sorted(row.chosen.items()))
    return [
        *(
            row.model,
            row.how,
            str(row.seed),
            f"{row.before:.5f}",
            _in_words(row.drop),
            f"{row.bytes[1] / row.bytes[0]:.3f} ×",
        ),
        "" if row.certificate is None else _in_words(row.certificate),
        "" if row.met is None else ("yes" if row.met else "no"),
        "" if row.evaluations is None else str(row.evaluations),
        "" if row.p99 is None else f"{row.p99:.3f} ×",
        "" if row.throughput is None else f"{row.throughput:.1f} ×",
        chosen,
    ]


def _in_words(drop: tuple[float, float, float]) -> str:
    estimate, low, high = drop
    return f"{estimate:+.5f} [{low:+.5f}, {high:+.5f}]"
