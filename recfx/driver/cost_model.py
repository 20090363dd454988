"""The model of costs that placement asks, and the backends that it knows well enough to let them compete."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence

import torch

from recfx.cost.calibration import known_calibration
from recfx.cost.model import CostModel
from recfx.driver import backend_calibration
from recfx.placement.costs import Costs
from recfx.targets import BACKENDS, Backend
from recfx.targets.registry import BUILT_IN

#: Set to 0, no calibration starts by itself; `recfx calibrate` measures in any case.
AUTOMATIC = "RECFX_CALIBRATE"

_lock = threading.Lock()


@functools.cache
def _model() -> CostModel:
    """One model for the process, which keeps what it has read and fitted."""
    return backend_calibration.cost_model()


def cost_model() -> Costs:
    """The model of this machine's costs."""
    return _model()


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
        calibration = known_calibration(threads)
        missing = [*built_in] if calibration is None else calibration.missing(built_in)
        if missing and calibrate and os.environ.get(AUTOMATIC) != "0":
            names = dict.fromkeys(["native", "eager", *built_in])
            present = [BACKENDS[name] for name in names if BACKENDS[name].unavailable() is None]
            calibration = backend_calibration.calibrated(present)
            missing = calibration.missing(built_in)
            _model.cache_clear()
    return [backend for backend in rivals if backend.name not in missing]
