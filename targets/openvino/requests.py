"""One compiled model for each number of threads, and an inference request for each call that runs at a time."""

from __future__ import annotations

import threading
from typing import Any

import torch

from recfx.errors import TargetError
from recfx.targets.openvino.package import core, openvino, plain_infer, settings

#: Tensors up to this size are copied to and from memory that stays bound, which takes less time than binding other memory.
_COPIED_BYTES = 1 << 14


class Slot:
    """An inference request, and the memory that is bound to its inputs and results.

    Large tensors are bound and not copied. OpenVINO does not keep bound memory alive: the call does so until it has ended, and each call
    binds its own.

    Args:
        request: The request.
        count: How many inputs and results the model has.
        free: The list to which the slot returns after a call.

    Attributes:
        infer: Runs the request.
        kept: The memory that stays bound, of each input and then of each result; None where the call's own memory is bound.
    """

    __slots__ = ("free", "infer", "kept", "request")

    def __init__(self, request: Any, count: int, free: list[Slot]) -> None:
        self.request, self.free, self.infer = request, free, plain_infer(request)
        self.kept: list[torch.Tensor | None] = [None] * count

    def give(self, at: int, tensor: torch.Tensor) -> torch.Tensor:
        """Gives the request an input of another size than the last call's.

        Args:
            at: The number of the input.
            tensor: The input.

        Returns:
            The bound memory, which must stay alive until the call has ended.
        """
        tensor = tensor.detach().contiguous()
        small = tensor.nbytes <= _COPIED_BYTES
        self.kept[at] = None
        bound = tensor.clone() if small else tensor
        self.request.set_input_tensor(at, _memory(bound))
        if small:
            self.kept[at] = bound
        return bound

    def receive(self, at: int, number: int, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Binds memory for a result of another size than the last call's.

        Args:
            at: The position of the result in `kept`.
            number: The number of the result.
            size: Its shape.
            dtype: Its type.

        Returns:
            The bound memory.
        """
        bound = torch.empty(size, dtype=dtype)
        self.kept[at] = None
        self.request.set_output_tensor(number, _memory(bound))
        if bound.nbytes <= _COPIED_BYTES:
            self.kept[at] = bound
        return bound


def _memory(tensor: torch.Tensor) -> Any:
    return openvino().Tensor(tensor.numpy(), shared_memory=True)


class Requests:
    """The inference requests of one model.

    A request serves one call at a time. A call takes a free slot, or a new one when all are in use, and returns it.

    Args:
        model: The `openvino.Model`.
        precision: "f32" or "bf16".
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._model, self._precision = model, precision
        self._count = len(model.inputs) + len(model.outputs)
        self._compiled: dict[int, Any] = {}
        self._free: dict[int, list[Slot]] = {}
        self._lock = threading.Lock()

    def take(self, threads: int) -> Slot:
        """The slot for a call with some threads. The call appends it to `slot.free` afterwards.

        Raises:
            TargetError: OpenVINO cannot compile the model.
        """
        free = self._free.get(threads)
        if free is None:
            free = self._compile(threads)
        try:
            return free.pop()
        except IndexError:
            return Slot(self._compiled[threads].create_infer_request(), self._count, free)

    def _compile(self, threads: int) -> list[Slot]:
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
