"""Records of a journal of rows, which the kernel appends in the same call that writes the rows."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Sequence

import torch

from recfx.kernels.library import library
from recfx.kernels.memory import address

_i64, _p = ctypes.c_int64, ctypes.c_void_p


class _CPart(ctypes.Structure):
    """The system's iovec."""

    _fields_ = (("bytes", _p), ("count", ctypes.c_size_t))


class _CRowRecord(ctypes.Structure):
    """RecfxRowRecord of csrc/row_writes.h."""

    _fields_ = (
        *((name, _i64) for name in ("struct_bytes", "file")),
        ("path", ctypes.c_char_p),
        *((name, _i64) for name in ("locked", "to_disk", "position")),
        ("parts", _p),
        *((name, _i64) for name in ("part_count", "status", "error")),
    )


class Outcome(enum.IntEnum):
    """What became of a record.

    NOT_READY: another process holds the lock of the file or has appended to it, or the file is not at its path any more.
    WRITTEN: it was appended.
    REFUSED: the system refused to write it.
    """

    NOT_READY = 0
    WRITTEN = 1
    REFUSED = 2


class RowRecord:
    """A record on its way into a journal; see `recfx.formats.row_journal` for its form.

    Args:
        file: The descriptor of the journal.
        path: Where the file is.
        position: The end of the file as its writer knows it. A file that is longer is left alone.
        description: The first part of the payload.
        tensors: What follows in it, contiguous.
        locked: Whether the caller holds the lock of the file (`flock`); otherwise the kernel takes it if nobody else holds it.
        to_disk: Whether to wait until the disk has the record.
    """

    __slots__ = ("_held", "_struct")

    def __init__(
        self,
        file: int,
        path: bytes,
        position: int,
        description: bytes,
        tensors: Sequence[torch.Tensor],
        *,
        locked: bool,
        to_disk: bool,
    ) -> None:
        text = ctypes.c_char_p(description)
        parts = (_CPart * (2 + len(tensors)))()  # the first is the head, which the kernel makes
        parts[1] = _CPart(ctypes.cast(text, _p), len(description))
        for place, tensor in enumerate(tensors, 2):
            parts[place] = _CPart(address(tensor), tensor.nbytes)
        self._held = description, tensors, parts
        self._struct = _CRowRecord(
            ctypes.sizeof(_CRowRecord),
            file,
            path,
            locked,
            to_disk,
            position,
            ctypes.addressof(parts),
            len(parts),
            Outcome.NOT_READY,
            0,
        )

    @property
    def address(self) -> int:
        """Of the struct, for the kernel."""
        return ctypes.addressof(self._struct)

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        return Outcome(self._struct.status)

    @property
    def position(self) -> int:
        """The end of the file, with the record if it was written."""
        return int(self._struct.position)

    @property
    def error(self) -> int:
        """The number of the system's error (`errno`) if it refused."""
        return int(self._struct.error)


def checksum(data: bytes, before: int = 0, *, portable: bool = False) -> int:
    """CRC-32 as `zlib.crc32` computes it.

    Args:
        data: The bytes.
        before: The checksum of the bytes before them.
        portable: Whether to leave out the instructions that only some processors have.
    """
    return int(library().calls["recfx_checksum"](data, len(data), before, portable))
