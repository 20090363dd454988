"""One compiled model for each number of threads, and an inference request for each call that runs at a time."""

from __future__ import annotations

import threading
from typing import Any

from recfx.errors import TargetError
from recfx.targets.openvino.package import core, settings


class Requests:
    """The inference requests of one model.

    A request serves one call at a time. A call takes a free request, or a new one when all are in use, and returns it.

    Args:
        model: The `openvino.Model`.
        precision: "f32" or "bf16".
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._model, self._precision = model, precision
        self._compiled: dict[int, Any] = {}
        self._free: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    def take(self, threads: int) -> tuple[Any, list[Any]]:
        """A request for a call with some threads, and the list to which the call appends it afterwards.

        Raises:
            TargetError: OpenVINO cannot compile the model.
        """
        free = self._free.get(threads)
        if free is None:
            free = self._compile(threads)
        try:
            return free.pop(), free
        except IndexError:
            return self._compiled[threads].create_infer_request(), free

    def _compile(self, threads: int) -> list[Any]:
        with self._lock:
            if threads not in self._free:
                try:
                    self._compiled[threads] = core().compile_model(
                        self._model, "CPU", settings(threads, self._precision)
                    )
                except RuntimeError as error:
                    raise TargetError(
                        f"OpenVINO cannot compile the region: {str(error).strip().partition(chr(10))[0][:300]}",
                        hint="give the region to another backend, such as 'eager'",
                    ) from error
                self._free[threads] = []
            return self._free[threads]
