"""Large tables on large pages: a random row of a table of hundreds of megabytes costs more to find (page walks) than to read.

Measured on 640 MB of rows of 256 bytes: 23 ns a row on pages of 4 KiB, 9 ns on pages of 2 MiB.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from recfx.kernels.background import BACKGROUND

#: Tables that are smaller together are found well enough through small pages.
LEAST_BYTES = 16 << 20
_PAGE = 2 << 20
_THREAD = "recfx-huge-pages"
_STRIDE = 16 * _PAGE  # bytes a call: the kernel holds the process's map of memory meanwhile
_PAUSE = 1e-3  # seconds between calls, for whoever waits to measure
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # linux/mman.h; collapsing came with Linux 6.1
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def unavailable() -> str | None:
    """None when tables can be moved to large pages here, otherwise why not."""
    if os.environ.get("RECFX_HUGE_PAGES") == "0":
        return "switched off by RECFX_HUGE_PAGES=0"
    if sys.platform != "linux" or _madvise() is None:
        return "only Linux has them on request"
    if not _SWITCH.is_file() or "[never]" in _SWITCH.read_text():
        return f"switched off in {_SWITCH}"
    return None


def wait() -> None:
    """Waits until all tables are where they are to be, for whoever measures; before measuring, as nothing moves meanwhile."""
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join()


def move_tables(tables: Sequence[torch.Tensor]) -> threading.Thread | None:
    """Moves what is large among some tables to large pages, in the background; addresses and contents stay as they are.

    Args:
        tables: Tensors in main memory. Memory that belongs to a file, or that the system has no large pages for, stays as it is.

    Returns:
        The thread that does it; None when there is nothing to do.
    """
    large = [table for table in tables if table.nbytes >= 2 * _PAGE]  # wherever it begins, it spans a whole page
    if sum(table.nbytes for table in large) < LEAST_BYTES or unavailable():
        return None
    thread = threading.Thread(target=_move, args=(large,), name=_THREAD, daemon=True)
    thread.start()
    return thread


def _move(tables: Sequence[torch.Tensor]) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # this thread's alone: calls of the model come first
    for table in tables:
        begin = -(-table.data_ptr() // _PAGE) * _PAGE
        end = (table.data_ptr() + table.numel() * table.element_size()) // _PAGE * _PAGE
        for at in range(begin, end, _STRIDE):
            bytes_ = min(_STRIDE, end - at)
            with BACKGROUND:
                refused = _advise(at, bytes_, _MADV_HUGEPAGE) or _advise(at, bytes_, _MADV_COLLAPSE)
            if refused:
                break  # no large pages are left, or this memory cannot have them; it is only advice
            time.sleep(_PAUSE)


def _advise(address: int, bytes_: int, advice: int) -> int:
    madvise = _madvise()
    assert madvise is not None
    return int(madvise(address, bytes_, advice))


@lru_cache
def _madvise() -> Any:
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return function
