"""The processor: its name, its cores, and its instruction sets that matter to recommendation models."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path

#: Vector, matrix and low-precision extensions, as Linux names them on x86 and Arm.
# fmt: off
FLAGS = frozenset({
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512_vpopcntdq", "amx_tile", "amx_int8", "amx_bf16",
    "amx_fp16", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme",
})
# fmt: on


@dataclasses.dataclass(frozen=True)
class Processor:
    """The processor that this process may use.

    Attributes:
        name: The system's name for it, with the family and the model that tell generations of equal name apart.
        cores: Logical cores that this process may run on.
        flags: The members of `FLAGS` that it has, sorted.
    """

    name: str
    cores: int
    flags: tuple[str, ...]


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Reads the system's description of the processor. Outside Linux the flags are unknown and left empty."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fields = _first_block(cpuinfo.read_text()) if cpuinfo.is_file() else {}
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    if {"cpu family", "model"} <= fields.keys():
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    words = (fields.get("flags") or fields.get("Features") or "").split()
    return Processor(name, cores, tuple(sorted(FLAGS.intersection(words))))


def _first_block(text: str) -> dict[str, str]:
    """The fields of the first core."""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, colon, value in lines if colon}
