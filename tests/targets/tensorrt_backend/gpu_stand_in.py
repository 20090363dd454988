"""What torch-tensorrt asks torch and TensorRT about a GPU, answered without one: everything runs but the loading of a built engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.targets.tensorrt import package


class Properties:
    """An NVIDIA L4, as torch describes it."""

    name = "NVIDIA L4"
    major, minor = 8, 9
    total_memory = 24 << 30
    multi_processor_count = 58
    clock_rate, memory_clock_rate, memory_bus_width = 2_040_000, 6_251_000, 192


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torch describe a GPU. It still says that no GPU is available, so that nothing is moved to one."""
    monkeypatch.setattr(package, "_no_gpu", lambda: None)
    answers: dict[str, Any] = {
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: (Properties.major, Properties.minor),
        "get_device_name": lambda device=None: Properties.name,
        "get_device_properties": lambda device=None: Properties(),
        "mem_get_info": lambda device=None: (20 << 30, 24 << 30),
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "synchronize": lambda device=None: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    if not hasattr(torch._C, "_CudaDeviceProperties"):
        monkeypatch.setattr(torch._C, "_CudaDeviceProperties", Properties, raising=False)


class Built:
    """A built engine in place of a loaded one."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Runtime:
    """TensorRT's runtime, which would load the engine on the GPU."""

    def __init__(self, *_: Any) -> None:
        pass

    def deserialize_cuda_engine(self, content: Any) -> Built:
        return Built(bytes(content))
