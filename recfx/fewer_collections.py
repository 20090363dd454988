"""Python's collector of reference cycles runs less often while modules are imported and while a model is compiled.

Both make millions of small objects that live on: functions and classes; nodes, expressions and fake tensors. Each run of the collector
visits all of them again and frees almost none.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects between two runs over the youngest ones; Python's default is 700. A model of thousands of operators takes a million.
_NEW_OBJECTS = 1_000_000

_lock = threading.Lock()
_depth = 0
_before = gc.get_threshold()


@contextmanager
def fewer_collections(*, imports: bool = False) -> Iterator[None]:
    """Within it, the collector runs less often. One that the user turned off stays off.

    Args:
        imports: Whether only modules are imported. They leave nothing to collect, so the new objects count as old ones at the end.
    """
    global _depth, _before
    with _lock:
        _depth += 1
        if _depth == 1:
            _before = gc.get_threshold()
            if _before[0]:
                gc.set_threshold(max(_before[0], _NEW_OBJECTS), *_before[1:])
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if imports and not gc.get_freeze_count():  # objects that the user froze stay frozen
                gc.freeze()
                gc.unfreeze()
            if not _depth:
                gc.set_threshold(*_before)
