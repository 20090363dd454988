"""The C++ compiler that Inductor calls, and the identity of everything that compiled code depends on."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil

import torch

from recfx.cost.processor import processor

_HINT = "Inductor needs a C++ compiler: install g++ (apt-get install g++), or set CXX"


def missing() -> str | None:
    """None when a C++ compiler is found, otherwise how to install one. Importing Inductor takes a second, so it is not asked."""
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no Inductor: install torch from PyPI"
    names = [name for name in (os.environ.get("CXX", ""), "g++", "clang++") if name]
    commands = [shlex.split(name)[-1:] for name in names]
    return None if any(shutil.which(word) for command in commands for word in command) else _HINT


def version() -> str:
    """The version of torch, which contains Inductor."""
    return torch.__version__


def machine() -> str:
    """The processor and its instruction sets. Compiled code runs on no other processor with certainty."""
    found = processor()
    return f"{found.name} {' '.join(found.flags)} {torch.backends.cpu.get_cpu_capability()}"
