"""Calibration of the backends that are present, and the cost model that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recfx.capture import capture
from recfx.cost.cache_files import Cache
from recfx.cost.calibrate import SECONDS, Run, calibrate, steps
from recfx.cost.calibration import Calibration, calibration_path, known_calibration, store
from recfx.cost.model import CostModel
from recfx.ir.region import Region
from recfx.ops.to_aten import decompose
from recfx.passes import default_pipeline
from recfx.pipeline import Pipeline
from recfx.progress import progress
from recfx.runtime.outputs import own_outputs
from recfx.targets import BACKENDS, Backend, Refused


class BackendHarness:
    """A backend as calibration sees it.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def version(self) -> str:
        """The version of the backend's library."""
        return self.backend.version()

    def lower(self, region: Region) -> Run:
        """The function that runs a region.

        Raises:
            Refused: The backend does not support an operator.
        """
        verdicts = self.backend.supports(region)
        reasons = {node.name: verdict.reason for node, verdict in verdicts.items() if not verdict}
        if reasons:
            raise Refused(reasons)
        return self.backend.lower(region).run


def calibrated(
    backends: Iterable[Backend] | None = None,
    *,
    cache: Cache = True,
    again: bool = False,
    seconds: float = SECONDS,
    precisions: Sequence[str] | None = None,
) -> Calibration:
    """The calibration of this machine at torch's present number of threads. Backends without a measurement are measured, and stored.

    A progress bar is shown on a terminal.

    Args:
        backends: The backends; all that are present by default.
        cache: Where calibrations are stored.
        again: Whether backends are measured again.
        seconds: The longest that the measurement may take.
        precisions: The precisions to measure; all that the backends compute in by default.

    Raises:
        MeasureError: No backend could run anything.
    """
    present = [b for b in BACKENDS.values() if "cpu" in b.devices and b.unavailable() is None]
    harnesses = {backend.name: BackendHarness(backend) for backend in (present if backends is None else backends)}
    known = None if again else known_calibration(torch.get_num_threads(), cache)
    todo = harnesses if known is None else _missing(known, harnesses)
    if known is not None and not todo:
        return known
    kernels = frozenset[str]().union(*(harness.backend.kernels() for harness in harnesses.values()))
    chosen = list(precisions or ("fp32", "bf16", "int8"))
    with progress("calibrating", steps(len(todo), chosen)) as advance:
        found = calibrate(todo, _Capture(kernels), known=known, precisions=chosen, seconds=seconds, advance=advance)
    store(found, cache)
    return found


def described(calibration: Calibration, cache: Cache = True) -> str:
    """A calibration as a table, and the file that holds it."""
    machine = calibration.machine
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    lines = [
        f"{machine.cpu}, {threads}: {machine.matmul / 1e9:.0f} GFLOP/s in fp32, memory {machine.stream_rate(1 << 28) / 1e9:.0f} GB/s, "
        f"{machine.gather_rate(1 << 28, 64) / 1e6:.0f} million random rows of 64 bytes a second",
    ]
    model = CostModel({machine.threads: calibration}, cache=False)
    for name, held in calibration.backends.items():
        call = model.launch(name, machine.threads).seconds
        parts = [f"{len(held.points)} measurements", f"a call {call * 1e6:.1f} us"]
        parts += [f"{len(held.refused)} modules refused"] if held.refused else []
        parts += [] if held.complete else ["time did not suffice for all modules"]
        lines.append(f"  {name} {held.version}: {', '.join(parts)}")
    for hand in calibration.handoffs:
        lines.append(f"  {hand.source} to {hand.destination}, {hand.nbytes >> 10} KiB: {hand.seconds * 1e6:.1f} us")
    path = calibration_path(machine.threads, cache)
    return "\n".join([*lines, *([f"stored in {path}"] if path is not None and path.is_file() else [])])


def _missing(known: Calibration, harnesses: Mapping[str, BackendHarness]) -> dict[str, BackendHarness]:
    missing = known.missing({name: harness.version for name, harness in harnesses.items()})
    return {name: harnesses[name] for name in missing}


class _Capture:
    """Makes regions of modules by the default passes, with operators of the dialect and without.

    Args:
        kernels: Names of the operators that the backends have kernels for.
    """

    def __init__(self, kernels: frozenset[str]) -> None:
        self.kernels = kernels

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> list[Region]:
        pipeline = Pipeline(default_pipeline(requests=False, kernels=self.kernels, precision=precision))
        program = own_outputs(pipeline.run(capture(module, inputs)).program)
        return [Region.whole(program), Region.whole(decompose(program))]
