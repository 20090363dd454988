"""The structs of csrc/abi.h, for ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from recfx.kernels.codes import Dtype

RANK, VIEWS, INTS, FLOATS, POINTERS = 4, 8, 48, 24, 12

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


class CSlot(ctypes.Structure):
    """RecfxSlot."""

    _fields_ = (
        ("kind", _i32),
        ("dtype", _i32),
        ("argument", _i32),
        ("once", _i32),
        ("row_stride", _i64),
        ("data", ctypes.c_void_p),
    )


class CView(ctypes.Structure):
    """RecfxView."""

    _fields_ = (
        ("slot", _i32),
        ("rank", _i32),
        ("offset", _i64),
        ("size", _i64 * RANK),
        ("stride", _i64 * RANK),
    )


class CStep(ctypes.Structure):
    """RecfxStep."""

    _fields_ = (
        ("kind", _i32),
        ("once", _i32),
        ("views", CView * VIEWS),
        ("out", CView),
        ("ints", _i64 * INTS),
        ("floats", ctypes.c_double * FLOATS),
        ("pointers", ctypes.c_void_p * POINTERS),
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


class CError(ctypes.Structure):
    """RecfxError."""

    _fields_ = (
        ("code", _i64),
        ("step", _i64),
        ("feature", _i64),
        ("row", _i64),
        ("value", _i64),
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
