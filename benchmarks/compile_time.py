"""How long optimize takes, stage by stage, and how much memory: one process for each case."""

from __future__ import annotations

import compileall
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import recfx
from benchmarks.markdown import markdown
from benchmarks.memory import memory, reset_peak
from benchmarks.pair_models import pair_model
from recfx.errors import MeasureError

STAGES = ("capture", "passes", "lowering", "measuring")
_DLRM_FIELDS, _DLRM_DENSE = 26, 13


@dataclasses.dataclass(frozen=True)
class CompileTime:
    """What optimize took for one case.

    Attributes:
        case: The case.
        operators: Operators before and after the passes.
        seconds: Stage -> seconds.
        total: Seconds of the whole call.
        model_bytes: Bytes of the model's state.
        peak_bytes: How far the memory of the process grew at most; 0 where the system does not tell.
        passes: The passes that took longest: text, seconds of the pass, seconds of its verification.
    """

    case: str
    operators: tuple[int, int]
    seconds: dict[str, float]
    total: float
    model_bytes: int
    peak_bytes: int
    passes: tuple[tuple[str, float, float], ...]


def _dlrm() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from recfx.zoo.dlrm import DLRM

    torch.manual_seed(0)
    model = DLRM([100_000] * _DLRM_FIELDS, _DLRM_DENSE, 16).eval()
    return model, (torch.randn(16, _DLRM_DENSE), torch.randint(0, 100_000, (16, _DLRM_FIELDS)))


def _pairs(name: str, fields: int) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
        model, values = pair_model(name, fields)
        return model, (values,)

    return make


#: Name -> model and example.
CASES: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "dlrm-26": _dlrm,
    "bilinear-26": _pairs("bilinear", 26),
    "operation-aware-26": _pairs("operation-aware", 26),
    "field-aware-26": _pairs("field-aware", 26),
}


def measure(cases: Sequence[str], precision: str = "fp32") -> str:
    """A table of what optimize takes.

    Args:
        cases: Names in `CASES`.
        precision: As `optimize` takes it.

    Raises:
        MeasureError: A case is not known, or fails.
    """
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        raise MeasureError(f"no case is called {', '.join(unknown)}", hint=f"cases: {', '.join(CASES)}")
    write_bytecode()
    return table([_in_own_process(case, precision) for case in cases])


def write_bytecode() -> None:
    """Writes the bytecode of recfx, which an installation by pip does as well.

    Otherwise the processes compile its 500 files first; where PYTHONDONTWRITEBYTECODE is set, each of them does.
    """
    root = Path(recfx.__file__).parent
    for folder in (root, root / "passes", root / "targets", Path(__file__).parent):
        compileall.compile_dir(folder.resolve(), quiet=2)


def table(rows: Sequence[CompileTime]) -> str:
    """The measurements as Markdown."""
    head = [
        "case",
        "operators",
        *(f"{stage} s" for stage in STAGES),
        "total s",
        "model MB",
        "peak MB",
        "slowest passes",
    ]
    cells = [
        [
            row.case,
            f"{row.operators[0]:,} -> {row.operators[1]:,}",
            *(f"{row.seconds.get(stage, 0.0):.1f}" for stage in STAGES),
            f"{row.total:.1f}",
            f"{row.model_bytes / 1e6:.0f}",
            f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "?",
            ", ".join(f"{text} {seconds + check:.1f}" for text, seconds, check in row.passes),
        ]
        for row in rows
    ]
    return markdown(head, cells, set(range(2, 9)))


def compile_case(case: str, precision: str = "fp32") -> CompileTime:
    """Optimizes the model of a case in this process."""
    model, example = CASES[case]()
    before = reset_peak()
    start = time.perf_counter()
    report = recfx.optimize(model, "cpu", example_inputs=example, precision=precision).report
    total = time.perf_counter() - start
    slowest = sorted(report.passes, key=lambda record: -record.seconds - record.verify_seconds)[:3]
    return CompileTime(
        case,
        report.operators,
        {stage: report.seconds.get(stage, 0.0) for stage in STAGES},
        total,
        report.state_bytes[0],
        max(0, memory("VmHWM") - before) if before else 0,
        tuple((record.text, record.seconds, record.verify_seconds) for record in slowest),
    )


def _in_own_process(case: str, precision: str) -> CompileTime:
    command = [sys.executable, "-m", "benchmarks.compile_time", case, precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasureError(
            f"the case {case} failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}",
            hint=f"run it alone: {' '.join(command[1:])}",
        )
    return from_json(json.loads(done.stdout.splitlines()[-1]))


def from_json(held: dict[str, Any]) -> CompileTime:
    """A measurement from its JSON."""
    passes = tuple((str(text), float(run), float(check)) for text, run, check in held["passes"])
    first, last = held["operators"]
    return CompileTime(**{**held, "operators": (int(first), int(last)), "passes": passes})


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(dataclasses.asdict(compile_case(sys.argv[1], sys.argv[2]))))
