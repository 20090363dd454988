"""Tensors in a safetensors file, read from memory that the file is mapped to.

The header is checked before it is used: each tensor has a known dtype, its bytes match its shape, and together the tensors cover the rest
of the file exactly once.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import torch

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.records import decode, fields

MOST_TENSORS = 100_000
_MOST_HEADER_BYTES = 32 << 20
_LENGTH_BYTES = 8
_MOST_RANK = 64
_MOST_ELEMENTS = 1 << 60

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
    "BOOL": torch.bool,
}


def read_tensors(memory: mmap.mmap | bytes, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a file, by name. They share the memory; a page is read when it is first used.

    Args:
        memory: The whole file, privately mapped.
        where: The file's name, for errors.

    Raises:
        ArtifactError: The header is damaged, or describes tensors that overlap, leave gaps, or do not lie in the file.
    """
    if len(memory) < _LENGTH_BYTES:
        raise ArtifactError(f"the file has {len(memory)} bytes: it was cut short", where=where)
    length = int.from_bytes(memory[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > _MOST_HEADER_BYTES or start > len(memory):
        raise ArtifactError(f"the header claims {length} bytes of a file of {len(memory)}", where=where)
    header = decode(dict[str, Any], strict_json.parse(memory[_LENGTH_BYTES:start], where), f"{where}, header")
    decode(dict[str, str], header.pop("__metadata__", {}), f"{where}, header.__metadata__")
    if len(header) > MOST_TENSORS:
        raise ArtifactError(f"the file names {len(header)} tensors, at most {MOST_TENSORS} are read", where=where)
    tensors, spans = {}, []
    for name, entry in header.items():
        place = f"{where}, tensor {name[:200]!r}"
        dtype, shape, begin, end = _entry(entry, len(memory) - start, place)
        if begin != end and (start + begin) % dtype.itemsize:
            raise ArtifactError(
                f"the data begin at byte {start + begin}, which is not aligned for {dtype}", where=place
            )
        tensors[name] = _view(memory, dtype, shape, start + begin, place)
        spans.append((begin, end))
    _require_cover(spans, len(memory) - start, where)
    return tensors


def _entry(entry: Any, available: int, where: str) -> tuple[torch.dtype, list[int], int, int]:
    """Dtype, sizes, first and last byte of one tensor."""
    held = fields(entry, where, ("dtype", "shape", "data_offsets"))
    name = decode(str, held["dtype"], f"{where}.dtype")
    if name not in _DTYPES:
        raise ArtifactError(f"the dtype {name[:40]!r} is not known", where=where)
    dtype, shape = _DTYPES[name], decode(list[int], held["shape"], f"{where}.shape")
    begin, end = decode(tuple[int, int], held["data_offsets"], f"{where}.data_offsets")
    if len(shape) > _MOST_RANK or any(size < 0 for size in shape):
        raise ArtifactError(f"{shape[:8]} are not the sizes of a tensor", where=where)
    if math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise ArtifactError(f"the sizes {shape[:8]} are too large", where=where)
    if not 0 <= begin <= end <= available:
        raise ArtifactError(f"the data lie at bytes {begin} to {end} of {available}", where=where)
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ArtifactError(f"{name} {shape[:8]} does not take the {end - begin} bytes that are given", where=where)
    return dtype, shape, begin, end


def _view(memory: mmap.mmap | bytes, dtype: torch.dtype, shape: list[int], at: int, where: str) -> torch.Tensor:
    elements = math.prod(shape)
    if not elements:
        return torch.empty(shape, dtype=dtype)
    if dtype is not torch.bool:
        return torch.frombuffer(memory, dtype=dtype, count=elements, offset=at).view(shape)
    held = torch.frombuffer(memory, dtype=torch.uint8, count=elements, offset=at)
    if int(held.max()) > 1:
        raise ArtifactError("a bool tensor holds bytes other than 0 and 1", where=where)
    return held.view(torch.bool).view(shape)


def _require_cover(spans: list[tuple[int, int]], size: int, where: str) -> None:
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            problem = "overlap" if begin < reached else "leave a gap"
            raise ArtifactError(f"the tensors {problem} at byte {min(begin, reached)} of the data", where=where)
        reached = end
    if reached != size:
        raise ArtifactError(f"the tensors take {reached} bytes of {size}", where=where)
