"""The backends by name, each imported and constructed at its first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping

from recfx.targets.base import Backend

#: Name of a backend -> the package of its folder and its class, in the order in which they are tried.
BUILT_IN = {
    "native": ("recfx.targets.native", "NativeBackend"),
    "openvino": ("recfx.targets.openvino", "OpenVINOBackend"),
    "onnxruntime": ("recfx.targets.onnxruntime", "OnnxruntimeBackend"),
    "inductor": ("recfx.targets.inductor", "InductorBackend"),
    "tensorrt": ("recfx.targets.tensorrt", "TensorRTBackend"),
    "eager": ("recfx.targets.eager", "EagerBackend"),
}


class Registry(MutableMapping[str, Backend]):
    """Name -> backend, in the order in which backends are tried. Backends of users are added like items of a dict."""

    def __init__(self) -> None:
        self._held: dict[str, Backend | None] = dict.fromkeys(BUILT_IN)

    def __getitem__(self, name: str) -> Backend:
        backend = self._held[name]
        if backend is None:
            package, kind = BUILT_IN[name]
            backend = self._held[name] = getattr(importlib.import_module(package), kind)()
        return backend

    def __setitem__(self, name: str, backend: Backend) -> None:
        self._held[name] = backend

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
