"""JSON documents about the server and its models."""

from __future__ import annotations

from typing import Any

from recfx.serve.engine.engine import Engine
from recfx.serve.engine.statistics import Point
from recfx.serve.engine.tensor_info import TensorInfo
from recfx.serve.models import Models
from recfx.version import VERSION

EXTENSIONS = ["binary_tensor_data", "model_repository"]

#: Quantiles of the times of answers that the status shows.
_SHARES = (0.5, 0.99, 0.999)


def server_document() -> dict[str, Any]:
    """The server metadata of the protocol."""
    return {"name": "recfx", "version": VERSION, "extensions": EXTENSIONS}


def model_document(engine: Engine) -> dict[str, Any]:
    """The model metadata of the protocol."""
    interface = engine.variant.interface
    return {
        "name": engine.name,
        "versions": [str(engine.version)],
        "platform": "recfx",
        "inputs": [_tensor(info) for info in interface.inputs],
        "outputs": [_tensor(info) for info in interface.outputs],
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": list(info.shape)}


def status_document(models: Models) -> dict[str, Any]:
    """The load and times of all models, for the live page."""
    return {"version": VERSION, "models": [_model(engine) for engine in models]}


def _model(engine: Engine) -> dict[str, Any]:
    with engine.lock:
        statistics = engine.statistics
        now = engine.clock()
        quantiles = statistics.quantiles(_SHARES, now - 60.0)
        return {
            "name": engine.name,
            "version": engine.version,
            "variant": engine.variant.name,
            "digest": engine.variant.digest,
            "healthy": engine.healthy,
            "waiting": engine.waiting,
            "running": engine.running,
            "answered": statistics.answered,
            "late": statistics.late,
            "rows": statistics.rows,
            "batches": statistics.batches,
            "rejected": {reason.value: count for reason, count in statistics.rejected.items() if count},
            "table_updates": statistics.table_updates,
            "table_rows": statistics.table_rows,
            "seconds_since_update": None if statistics.updated is None else now - statistics.updated,
            "seconds": {f"p{share * 100:g}": found for share, found in zip(_SHARES, quantiles, strict=True)},
            "history": [_point(point, int(now)) for point in statistics.points],
        }


def _point(point: Point, now: int) -> dict[str, Any]:
    held = point._asdict()
    return {"age": now - held.pop("second"), **held}


def index_document(models: Models) -> list[dict[str, Any]]:
    """The index of the model repository."""
    states = {True: "READY", False: "UNAVAILABLE"}
    return [
        {"name": engine.name, "version": str(engine.version), "state": states[engine.healthy], "reason": ""}
        for engine in models
    ]
