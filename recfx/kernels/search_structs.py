"""The structs of csrc/retrieval.h, for ctypes."""

from __future__ import annotations

import ctypes

_i64, _p = ctypes.c_int64, ctypes.c_void_p


class Search(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("struct_bytes", "items", "dim", "bits", "words", "queries", "k", "hamming")),
        *((name, _p) for name in ("blocks", "query_rows", "scale", "bias", "query_sum", "dead", "exclude_from")),
        *((name, _p) for name in ("exclude", "gain", "offset", "scores", "ids")),
        *((name, ctypes.c_float) for name in ("lower", "query_step", "query_lower", "query_constant")),
        ("query_kind", _i64),
        ("values", _p),
    )


class Queries(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("struct_bytes", "queries", "dim", "kind", "width")),
        *((name, _p) for name in ("values", "rows")),
        *((name, ctypes.c_float) for name in ("step", "lower", "constant")),
        *((name, _p) for name in ("gain", "offset", "sums")),
    )


class Rescore(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("struct_bytes", "dim", "queries", "candidates", "k", "dtype")),
        *((name, _p) for name in ("rows", "scale", "bias", "query_rows", "query_sum", "shortlist", "scores", "ids")),
    )
