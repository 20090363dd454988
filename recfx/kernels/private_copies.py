"""Copies of tensors that share the pages of their file until they are written to."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)")


def private_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a contiguous tensor.

    A tensor in a mapped file is mapped once more instead: the copy takes memory only for the pages that are written to, which neither the
    file nor the tensor sees. Nothing may have been written to the tensor itself.
    """
    found = _file_of(tensor) if tensor.numel() else None
    if found is None:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    path, offset, inode = found
    begin = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(opened).st_ino != inode:  # another file is at its place now
                raise FileNotFoundError(path)
            memory = mmap.mmap(opened, offset - begin + tensor.nbytes, access=mmap.ACCESS_COPY, offset=begin)
        finally:
            os.close(opened)
    except (OSError, ValueError):
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    held = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset - begin)
    return held.view(tensor.shape)


def _file_of(tensor: torch.Tensor) -> tuple[str, int, int] | None:
    """The file that a tensor is mapped from, the tensor's first byte in it, and the file's number; None for other memory."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:  # not on Linux
        return None
    at, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        first, last = int(match[1], 16), int(match[2], 16)
        if first <= at < last:
            private = match[3].endswith("p") and end <= last
            return (match[8], int(match[4], 16) + at - first, int(match[7])) if private else None
    return None
