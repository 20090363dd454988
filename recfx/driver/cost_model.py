"""The model of costs that placement asks, and the backends that it knows well enough to let them compete."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from recfx.cost.cache_files import cache_folder
from recfx.cost.calibration import BackendPoints, Calibration, known_calibration
from recfx.cost.default_machine import default_machine
from recfx.cost.estimate import Estimate
from recfx.cost.model import CostModel
from recfx.driver import backend_calibration
from recfx.driver.placed import Placed
from recfx.errors import MeasureError
from recfx.targets import BACKENDS, Backend
from recfx.targets.registry import BUILT_IN

#: Set to 0, no calibration starts by itself; `recfx calibrate` measures in any case.
AUTOMATIC = "RECFX_CALIBRATE"

#: The interval of one measurement of a region, as shares of its time.
_LOW, _HIGH = 0.9, 1.15

_lock = threading.Lock()
#: Cache folder and number of threads -> the calibration that this process made; the folder may not be writable.
_made: dict[tuple[Path | None, int], Calibration] = {}


@functools.cache
def _model(folder: Path | None) -> CostModel:
    """One model for the process and a cache folder, which keeps what it has read and fitted."""
    made = {threads: found for (held, threads), found in _made.items() if held == folder}
    return CostModel(made, versions=lambda name: BACKENDS[name].version() if name in BACKENDS else "")


def cost_model() -> CostModel:
    """The model of this machine's costs."""
    return _model(cache_folder())


def keep_times(placed: Placed, rows: int, seconds: Sequence[float]) -> None:
    """Keeps the measured time of each region of a lowered program, for later predictions.

    Args:
        placed: The lowered program.
        rows: The batch size.
        seconds: The time of each region.
    """
    model = cost_model()
    for region, backend, time in zip(placed.split.regions, placed.backends, seconds, strict=True):
        if time > 0 and any(node.op == "call_function" for node in region.graph.nodes):
            model.record(backend, region, rows, torch.get_num_threads(), Estimate(time, time * _LOW, time * _HIGH))


def calibrates() -> bool:
    """Whether a calibration may start by itself."""
    return os.environ.get(AUTOMATIC) != "0"


def known_rivals(rivals: Sequence[Backend], *, calibrate: bool) -> list[Backend]:
    """The backends whose times can be predicted on this machine.

    Those are the calibrated ones, and backends from outside the project, which may have estimates of their own. Without a
    calibration the predictions of a backend are too far off to choose by.

    Args:
        rivals: The backends that may compete.
        calibrate: Whether backends without a calibration are calibrated now, which takes up to a minute.
    """
    threads = torch.get_num_threads()
    built_in = {backend.name: backend.version() for backend in rivals if backend.name in BUILT_IN}
    if not built_in:
        return list(rivals)
    with _lock:
        here = (cache_folder(), threads)
        calibration = _made.get(here) or known_calibration(threads)
        missing = [*built_in] if calibration is None else calibration.missing(built_in)
        if missing and calibrate and calibrates():
            names = dict.fromkeys(["native", "eager", *built_in])
            present = [BACKENDS[name] for name in names if BACKENDS[name].unavailable() is None]
            calibration = _made[here] = _calibrated(present, calibration)
            _model.cache_clear()
    measured = {} if calibration is None else calibration.backends
    return [b for b in rivals if b.name not in built_in or (b.name in measured and measured[b.name].points)]


def _calibrated(backends: Sequence[Backend], known: Calibration | None) -> Calibration:
    """A calibration with the given backends. If nothing can be measured, a warning says so, and none of them competes."""
    try:
        return backend_calibration.calibrated(backends)
    except MeasureError as error:
        warnings.warn(f"this machine could not be calibrated: {error.in_one_line}", RuntimeWarning, stacklevel=3)
        none = {backend.name: BackendPoints(backend.version(), ()) for backend in backends}
        held = Calibration(default_machine(torch.get_num_threads())) if known is None else known
        return dataclasses.replace(held, backends={**none, **held.backends})
