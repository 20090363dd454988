"""The structs of csrc/abi.h, for ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from recfx.kernels.codes import Dtype, Size

_i32, _i64 = ctypes.c_int32, ctypes.c_int64

#: torch's dtypes that slots may have. Booleans are bytes.
DTYPES: dict[torch.dtype, int] = {
    torch.float32: Dtype.F32,
    torch.int64: Dtype.I64,
    torch.int32: Dtype.I32,
    torch.uint8: Dtype.U8,
    torch.bool: Dtype.U8,
    torch.bfloat16: Dtype.BF16,
    torch.float16: Dtype.F16,
}


class _ArgumentOrWidth(ctypes.Union):
    _fields_ = (("argument", _i32), ("width", _i32))


class _DataOrGroup(ctypes.Union):
    _fields_ = (("data", ctypes.c_void_p), ("group", _i64))


class CSlot(ctypes.Structure):
    """RecfxSlot."""

    _anonymous_ = ("_by_place", "_memory")
    _fields_ = (
        ("kind", _i32),
        ("dtype", _i32),
        ("_by_place", _ArgumentOrWidth),
        ("once", _i32),
        ("row_stride", _i64),
        ("_memory", _DataOrGroup),
    )


class CView(ctypes.Structure):
    """RecfxView."""

    _fields_ = (
        ("slot", _i32),
        ("rank", _i32),
        ("offset", _i64),
        ("size", _i64 * Size.RANK),
        ("stride", _i64 * Size.RANK),
    )


class CStep(ctypes.Structure):
    """RecfxStep."""

    _fields_ = (
        ("kind", _i32),
        ("once", _i32),
        ("views", CView * Size.VIEWS),
        ("out", CView),
        ("ints", _i64 * Size.INTS),
        ("floats", ctypes.c_double * Size.FLOATS),
        ("pointers", ctypes.c_void_p * Size.POINTERS),
    )


class CFeature(ctypes.Structure):
    """RecfxFeature."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("row_count", _i64),
        ("row_bytes", _i64),
        ("format", _i32),
        ("dim", _i32),
        ("output", _i64),
        ("ids", _i32),
        ("offsets", _i32),
        ("weights", _i32),
        ("pooling", _i32),
        ("ids_offset", _i64),
        ("ids_stride", _i64),
        ("weights_offset", _i64),
        ("weights_stride", _i64),
        ("length", _i64),
        ("segment", _i64),
        ("segments", _i64),
        ("last", _i64),
        ("padding", _i64),
        ("base", _i64),
        ("ids_row", _i64),
        ("weights_row", _i64),
    )


class _ErrorDetail(ctypes.Union):
    _fields_ = (("id", _i64), ("offset", _i64), ("length", _i64), ("bytes", _i64), ("argument", _i64))


class CError(ctypes.Structure):
    """RecfxError."""

    _anonymous_ = ("_by_code",)
    _fields_ = (
        ("code", _i64),
        ("step", _i64),
        ("feature", _i64),
        ("row", _i64),
        ("_by_code", _ErrorDetail),
        ("limit", _i64),
    )


class CBpr(ctypes.Structure):
    """RecfxBpr."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("user_table", "item_table", "user_gradient", "item_gradient")),
        *((name, ctypes.c_void_p) for name in ("users", "positives", "negatives", "slopes", "user_shares", "losses")),
        *((name, _i64) for name in ("user_count", "item_count", "columns", "batch", "negative_count", "joint")),
    )


STRUCTS: tuple[Any, ...] = (CSlot, CView, CStep, CFeature, CError, CBpr)
