"""Sessions of one model, one for each number of threads, and their bindings, one for each thread that calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch

from recfx.onnx.types import code_of
from recfx.targets.onnxruntime.package import cpu, new_binding, open_session


class Sessions:
    """The sessions of one model. A session is made when a call first runs with its number of threads.

    Args:
        model: The model.
        state: Name of an initializer -> its values.
        tables: Name of an input -> the tensor that every call gives it.
    """

    def __init__(self, model: bytes, state: Mapping[str, torch.Tensor], tables: Mapping[str, torch.Tensor]) -> None:
        self.model = model
        self._state = dict(state)
        self._tables = {name: tensor.detach().contiguous() for name, tensor in tables.items()}
        self._lock = threading.Lock()
        self._held: dict[int, Any] = {}

    def of(self, threads: int) -> Any:
        """The session for a number of threads."""
        with self._lock:
            if threads not in self._held:
                self._held[threads] = open_session(self.model, threads, self._state)
            return self._held[threads]

    def binding(self, threads: int) -> tuple[Any, Any]:
        """A session and a new binding of it, with the tables bound."""
        session = self.of(threads)
        made, device = new_binding(session), cpu()
        for name, tensor in self._tables.items():
            made.bind_input(name, device, code_of(tensor.dtype), tensor.shape, tensor.data_ptr())
        return session, made


class Here(threading.local):
    """The binding of the calling thread.

    Attributes:
        threads: torch's number of threads when the binding was made; 0 before.
        session: The session.
        binding: The binding.
        bind_input: The binding's method.
        bind_output: The binding's method.
        run: The session's method.
    """

    threads = 0
    session: Any = None
    binding: Any = None
    bind_input: Any = None
    bind_output: Any = None
    run: Any = None

    def attach(self, sessions: Sessions) -> None:
        """Takes a binding of the session for torch's number of threads."""
        threads = torch.get_num_threads()
        self.session, self.binding = sessions.binding(threads)
        self.bind_input, self.bind_output = self.binding.bind_input, self.binding.bind_output
        self.run = self.session.run_with_iobinding
        self.threads = threads
