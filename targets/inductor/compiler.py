"""The C++ compiler that Inductor calls, and the identity of everything that compiled code depends on."""

from __future__ import annotations

import functools

import torch

from recfx.cost.processor import processor

_HINT = "Inductor needs a C++ compiler: install g++ (apt-get install g++), or set CXX"


@functools.cache
def missing() -> str | None:
    """None when a C++ compiler is found, otherwise how to install one."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
    except ImportError as error:
        return f"this torch has no Inductor ({error}); install torch from PyPI"
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        return f"{_HINT} ({type(error).__name__})"
    return None


def version() -> str:
    """The version of torch, which contains Inductor."""
    return torch.__version__


def machine() -> str:
    """The processor and its instruction sets. Compiled code runs on no other processor with certainty."""
    found = processor()
    return f"{found.name} {' '.join(found.flags)} {torch.backends.cpu.get_cpu_capability()}"
