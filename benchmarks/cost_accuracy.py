"""How well the cost model predicts: units and plans of models that it was not fitted to, on every backend that is present."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from benchmarks.markdown import markdown
from recfx.capture import capture
from recfx.cost.calibrate import least_median
from recfx.cost.model import CostModel
from recfx.cost.work import work_of
from recfx.driver.backend_calibration import calibrated
from recfx.errors import MeasureError, RecfxError
from recfx.ir.probes import reshuffle
from recfx.ir.program import Program
from recfx.ir.region import Region, split
from recfx.ops.to_aten import decompose
from recfx.passes import default_pipeline
from recfx.pipeline import Pipeline
from recfx.placement.costs import cost_table
from recfx.placement.regions import costed_regions, total
from recfx.placement.units import UnitGraph, unit_graph
from recfx.runtime.outputs import own_outputs
from recfx.runtime.schedule import schedule
from recfx.targets import BACKENDS, Backend

#: Models of the zoo that are measured by default; none is part of the calibration.
MODELS = ("dlrm", "wide-deep", "deepfm", "dcn-v2", "autoint", "din", "bst", "mmoe", "two-tower", "sasrec")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A predicted and a measured time, in seconds.

    Attributes:
        model: The model.
        backend: The backend.
        rows: The batch size.
        kind: "unit" or "plan": all units that the backend supports on it, and torch for the rest.
        predicted: The predicted time.
        low: The lower end of its interval.
        high: The upper end.
        measured: The measured time.
    """

    model: str
    backend: str
    rows: int
    kind: str
    predicted: float
    low: float
    high: float
    measured: float


def measure(
    models: Sequence[str],
    backends: Sequence[str],
    batches: Sequence[int],
    cache: bool | Path = True,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Pair]:
    """Measures units and plans, and predicts them from the calibration alone.

    Args:
        models: Names of models of the zoo.
        backends: Names of backends.
        batches: Batch sizes.
        cache: Where the calibration is; it is made if it is missing.
        tell: Receives a line for each model.

    Raises:
        MeasureError: A backend cannot run here.
    """
    found = {name: BACKENDS[name] for name in backends if name in BACKENDS}
    missing = [name for name in backends if name not in found or found[name].unavailable() is not None]
    if missing:
        raise MeasureError(f"the backend {missing[0]!r} cannot run here", hint="see recfx doctor")
    costs = CostModel({torch.get_num_threads(): calibrated(found.values(), cache=cache)}, cache=False)
    pairs: list[Pair] = []
    for name in models:
        program = _program(name, found)
        plain = decompose(program)
        # A backend that refuses operators of the dialect is measured on the program without them.
        whole = {backend: held for backend, held in found.items() if _takes_dialect(held, program)}
        rest = {backend: held for backend, held in found.items() if backend not in whole}
        for form, backends_of in ((program, whole), (plain, rest)):
            if backends_of:
                pairs += _Measured(name, form, backends_of, costs).pairs(batches)
        tell(f"{name}: {len(pairs)} times")
    return pairs


def _program(name: str, backends: Mapping[str, Backend]) -> Program:
    """A model of the zoo after the default passes."""
    from recfx import zoo

    torch.manual_seed(0)
    model: Any = zoo.build(name).eval()
    kernels = frozenset[str]().union(*(backend.kernels() for backend in backends.values()))
    pipeline = Pipeline(default_pipeline(requests=False, kernels=kernels))
    return own_outputs(pipeline.run(capture(model, model.example_inputs(16))).program)


def _takes_dialect(backend: Backend, program: Program) -> bool:
    verdicts = backend.supports(program)
    return all(verdict for node, verdict in verdicts.items() if str(node.target).startswith("recfx."))


class _Measured:
    """One model on all backends.

    Args:
        name: Its name in the zoo.
        program: The program.
        backends: Name -> backend.
        costs: The cost model.
    """

    def __init__(self, name: str, program: Program, backends: Mapping[str, Backend], costs: CostModel) -> None:
        self.name, self.program, self.backends, self.costs = name, program, backends, costs
        self.threads = torch.get_num_threads()
        all_backends = {**backends, "eager": BACKENDS["eager"]}
        self.graph = unit_graph(self.program, {n: b.supports(self.program) for n, b in all_backends.items()})
        self.all_backends = all_backends
        self.runs: dict[tuple[str, int], Callable[..., Any] | None] = {}

    def pairs(self, batches: Sequence[int]) -> Iterator[Pair]:
        """The predicted and the measured times at some batch sizes."""
        plans = {name: self._plan(name) for name in self.backends}
        for rows in batches:
            leaves = reshuffle(self.program, rows, torch.Generator().manual_seed(rows))
            values = _values(self.program, leaves)
            with torch.inference_mode():
                for name in self.backends:
                    yield from self._units(name, rows, values)
                for name, plan in plans.items():
                    if plan is not None:
                        yield self._planned(name, plan, rows, leaves)

    def _units(self, name: str, rows: int, values: Mapping[str, Any]) -> Iterator[Pair]:
        for at, unit in enumerate(self.graph.units):
            run = self._lowered(name, at)
            if run is None or all(part.family == "view" for part in work_of(unit.region, rows)):
                continue  # views cost something at the border of a region only
            inputs = [values[source] for source in unit.region.inputs]
            predicted = self.costs.unit(name, unit.region, rows, self.threads) + self.costs.launch(name, self.threads)
            measured = least_median(lambda run=run, inputs=inputs: run(*inputs))  # type: ignore[misc]
            yield Pair(self.name, name, rows, "unit", predicted.seconds, predicted.low, predicted.high, measured)

    def _lowered(self, name: str, at: int) -> Callable[..., Any] | None:
        """A unit on a backend; None if the backend does not run it alone."""
        if (name, at) not in self.runs:
            unit = self.graph.units[at]
            self.runs[name, at] = None
            if name in unit.backends and unit.region.outputs:
                with contextlib.suppress(RecfxError):
                    self.runs[name, at] = self.backends[name].lower(unit.region).run
        return self.runs[name, at]

    def _labels(self, name: str) -> list[int]:
        """All units that a backend supports on it, and torch for the rest."""
        graph: UnitGraph = self.graph
        return [graph.backends.index(name if name in unit.backends else "eager") for unit in graph.units]

    def _plan(self, name: str) -> Callable[..., Any] | None:
        """The lowered plan of `_labels`; None if the backend refuses a region."""
        labels = self._labels(name)
        chosen = {node: self.graph.backends[labels[unit]] for node, unit in self.graph.unit_of.items()}
        parts = split(self.program, chosen)
        try:
            lowered = [self._lower(backend, r) for backend, r in zip(parts.backends, parts.regions, strict=True)]
        except RecfxError:
            return None
        return schedule(parts, lowered)

    def _lower(self, backend: str, region: Region) -> Any:
        return self.all_backends[backend].lower(region).body

    def _planned(self, name: str, plan: Callable[..., Any], rows: int, leaves: Sequence[Any]) -> Pair:
        table = cost_table(self.graph, self.all_backends, self.costs, rows, self.threads)
        predicted = total(costed_regions(table, self._labels(name)))
        measured = least_median(lambda: plan(*leaves), 0.03)
        return Pair(self.name, name, rows, "plan", predicted.seconds, predicted.low, predicted.high, measured)


def _values(program: Program, leaves: Sequence[Any]) -> dict[str, Any]:
    """The value of every node, run by torch."""
    found: dict[str, Any] = {}

    class Recording(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.no_grad():
        Recording(program.module).run(*leaves)
    return found


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; ties have the mean of their ranks."""
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Any) -> Any:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def report(pairs: Sequence[Pair]) -> str:
    """A line for each backend: rank correlation and errors of units, and errors of plans."""
    head = (
        *("backend", "units", "rank correlation", "median error of a unit", "inside the interval"),
        *("plans", "median error of a plan", "plans within 15 %"),
    )
    lines = []
    for name in dict.fromkeys(pair.backend for pair in pairs):
        units, plans = ([p for p in pairs if p.backend == name and p.kind == kind] for kind in ("unit", "plan"))
        cells = [name, str(len(units))]
        if len(units) > 1:
            correlation = rank_correlation([p.predicted for p in units], [p.measured for p in units])
            inside = statistics.mean(p.low <= p.measured <= p.high for p in units)
            cells += [f"{correlation:.3f}", f"{statistics.median(map(_error, units)):.0%}", f"{inside:.0%}"]
        else:
            cells += ["", "", ""]
        near = statistics.mean(_error(p) <= 0.15 for p in plans) if plans else 0.0
        cells += [str(len(plans)), f"{statistics.median(map(_error, plans)):.0%}" if plans else "", f"{near:.0%}"]
        lines.append(cells)
    return markdown(head, lines, set(range(1, len(head))))


def _error(pair: Pair) -> float:
    return abs(pair.predicted / pair.measured - 1)
