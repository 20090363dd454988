"""Random models: drawn programs go through the default pipeline and the native backend, and every answer is compared.

`python -m benchmarks random-models --models 100000 --out FILE`. Programs come from `recfx.testing.rec_graphs`, in
chunks with a seed each. A chunk runs in a process of its own, so that a process that dies is a finding and does not end
the run. The file holds the finished chunks, and the same command continues from them.

Findings are: answers that differ on any probe or special row, a backend that drops the program, an error of another
kind than recfx's errors, and a process that dies. An error of recfx is a finding too, because drawn programs are valid.
A difference is not a finding on rows of infinities and numbers of 1e12, where sums in another order may give another
infinity or NaN; `optimize` reports it in a notice. It is not a finding either if the program multiplies or sums
infinities on ordinary rows, for example behind a mask of -inf; `optimize` then does not use the kernels and says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import fx

from benchmarks.environment import environment
from recfx.capture.find_bags import find_bags
from recfx.driver.lowering import lower
from recfx.errors import MeasureError, RecfxError, VerificationError
from recfx.ir import Level, Program, verify_numeric
from recfx.ir.numeric import Exactness, weakest
from recfx.ir.operators import DIALECT
from recfx.passes import FUSED, default_pipeline
from recfx.pipeline import Pipeline
from recfx.runtime.outputs import own_outputs
from recfx.targets import resolve
from recfx.testing import rec_graphs

CHUNK = 250
_SECONDS_A_CHUNK = 1800
_MOST_STEPS = 12
#: Names of operators that sum products.
_SUMS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d", "embedding_bag"})


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The results of a chunk of models.

    Attributes:
        seed: The seed of its models.
        models: The number of drawn and compared models.
        findings: Kind, message and program of each finding.
    """

    seed: int
    models: int
    findings: tuple[tuple[str, str, str], ...] = ()


def examine(program: Program) -> tuple[str, str] | None:
    """Kind and message of the fault that recfx shows with a program; None without a fault."""
    program.bags = tuple(find_bags(program.run, program.example))
    try:
        result = Pipeline(default_pipeline(requests=False, kernels=FUSED, precision="fp32")).run(
            program, verify=Level.META
        )
        applied = weakest(Exactness(record.exactness) for record in result.records if record.fired)
        runs = verify_numeric(program, result.program, applied, extremes=[])
        _, notices = lower(own_outputs(result.program), resolve("native"), runs, applied)
    except VerificationError as error:
        return None if _sums_infinities(program) else (type(error).__name__, str(error))
    except RecfxError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - errors of other kinds are the findings
        return "foreign error", f"{type(error).__name__}: {error}"
    dropped = [n for n in notices if "left out" in n]
    return ("dropped backend", "; ".join(dropped)) if dropped else None


def _sums_infinities(program: Program) -> bool:
    """Whether a product or sum reads an infinity when the program runs on its example."""
    found: list[fx.Node] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            if getattr(n.target, "__name__", "").split(".")[0] in _SUMS or n.target in DIALECT:
                read = (self.env[source] for source in n.all_input_nodes)
                if any(isinstance(v, torch.Tensor) and v.is_floating_point() and bool(v.isinf().any()) for v in read):
                    found.append(n)
            return super().run_node(n)

    with torch.no_grad():
        Watch(program.module).run(*program.example)
    return bool(found)


def run_chunk(number: int, models: int, last: Path | None = None) -> Chunk:
    """Draws and examines a chunk of models in this process.

    Args:
        number: Seed of the chunk.
        models: How many models to draw.
        last: A file that always holds the current program, in case that it ends the process.
    """
    findings: list[tuple[str, str, str]] = []
    drawn = 0

    @seed(number)
    @settings(
        max_examples=models,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(rec_graphs(max_steps=_MOST_STEPS, jagged=True))
    def each(program: Program) -> None:
        nonlocal drawn
        drawn += 1
        if last is not None:
            last.write_text(str(program))
        if (found := examine(program)) is not None:
            findings.append((*found, str(program)))

    each()
    return Chunk(number, drawn, tuple(findings))


def measure(models: int, out: Path, chunk: int = CHUNK, workers: int = 1) -> Iterator[Chunk]:
    """Runs the chunks that the file does not hold yet, and yields each finished chunk.

    Args:
        models: The total number of models.
        out: The file of results, as JSON lines.
        chunk: Models per chunk.
        workers: Processes at a time.

    Raises:
        MeasureError: The file does not hold results of random models, or a number is below 1.
    """
    if models < 1 or chunk < 1 or workers < 1:
        raise MeasureError(
            f"cannot draw {models} models in chunks of {chunk} with {workers} workers",
            where="benchmarks.random_models",
            hint="pass positive numbers of models, of models a chunk, and of workers",
        )
    done = {found.seed for found in read(out)}
    revision = environment()["revision"]
    numbers = [number for number in range(-(-models // chunk)) if number not in done]
    with ThreadPoolExecutor(workers) as pool:
        work = [pool.submit(_in_a_process, n, min(chunk, models - n * chunk), out) for n in numbers]
        try:
            for ended in as_completed(work):
                found = ended.result()
                with out.open("a") as stream:
                    stream.write(json.dumps({**dataclasses.asdict(found), "where": revision}) + "\n")
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read(out: Path) -> list[Chunk]:
    """Reads the chunks in a file of results.

    Raises:
        MeasureError: It does not hold results of random models.
    """
    if not out.exists():
        return []
    try:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return [
            Chunk(int(d["seed"]), int(d["models"]), tuple((str(a), str(b), str(c)) for a, b, c in d["findings"]))
            for d in lines
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasureError(
            f"{out} does not hold results of random models: {error}", hint="name another file"
        ) from error


def summary(chunks: list[Chunk]) -> str:
    """The number of models, and every finding."""
    findings = [(c.seed, *f) for c in chunks for f in c.findings]
    lines = [f"{sum(c.models for c in chunks):,} random models, {len(findings)} findings"]
    lines += [f"\nchunk {number}, {kind}: {message}\n{program}" for number, kind, message, program in findings]
    return "\n".join(lines)


def _in_a_process(number: int, models: int, out: Path) -> Chunk:
    last = out.with_name(f"{out.name}.{number}.last")
    command = [sys.executable, "-m", "benchmarks.random_models", str(number), str(models), str(last)]
    environment_ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_A_CHUNK, env=environment_)
        why = f"exit status {ended.returncode}: {ended.stderr.strip()[-2000:]}" if ended.returncode else None
    except subprocess.TimeoutExpired:
        why = f"not finished within {_SECONDS_A_CHUNK} s"
    program = last.read_text() if last.exists() else ""
    last.unlink(missing_ok=True)
    if why is not None:
        return Chunk(number, models, (("dead process", why, program),))
    document = json.loads(ended.stdout.splitlines()[-1])
    return Chunk(number, document["models"], tuple((a, b, c) for a, b, c in document["findings"]))


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run_chunk(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))))
