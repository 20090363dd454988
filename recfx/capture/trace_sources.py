"""The user's source lines of recorded nodes, formatted once for each place in the model's code.

For every node, torch resolves and formats all frames of the call stack, and then keeps those of `forward` methods. Here the frames are
selected first. Equal frames at equal lines have one text.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


class TraceSources:
    """Places in the model's code -> the text that a node's stack trace holds.

    Attributes:
        formatted: How many texts were formatted.
    """

    def __init__(self) -> None:
        self._shown: dict[CodeType, bool] = {}
        self._texts: dict[tuple[tuple[CodeType, int], ...], str] = {}
        self.formatted = 0

    def create_node(self, own: Callable[..., Any], tracer: Any, *args: Any, **kwargs: Any) -> Any:
        """Creates a node with the stack trace that torch gives it.

        Args:
            own: The tracer's own method.
            tracer: The tracer.
            args: Arguments of the method.
            kwargs: Likewise.
        """
        if not tracer.record_stack_traces or not tracer._record_forward_stack_traces_only:
            return own(tracer, *args, **kwargs)
        tracer.record_stack_traces = False
        try:
            node = own(tracer, *args, **kwargs)
        finally:
            tracer.record_stack_traces = True
        if node.op not in ("placeholder", "output") and not node.stack_trace:
            text = self._text(tracer)
            if text:
                node.stack_trace = text
        return node

    def _text(self, tracer: Any) -> str:
        frame: FrameType | None = sys._getframe(2)
        places: list[tuple[CodeType, int]] = []
        while frame is not None:
            code = frame.f_code
            shown = self._shown.get(code)
            if shown is None:
                shown = self._shown[code] = bool(self._kept(tracer, code, frame.f_lineno))
            if shown:
                places.append((code, frame.f_lineno))
            frame = frame.f_back
        key = tuple(places)
        text = self._texts.get(key)
        if text is None:
            frames = [traceback.FrameSummary(c.co_filename, line, c.co_name) for c, line in reversed(places)]
            text = self._texts[key] = "".join(traceback.StackSummary.from_list(frames).format()).strip()
            self.formatted += 1
        return text

    def _kept(self, tracer: Any, code: CodeType, line: int) -> Any:
        """Whether torch keeps the frames of a function."""
        summary = traceback.StackSummary.from_list([traceback.FrameSummary(code.co_filename, line, code.co_name)])
        return tracer._filter_traceback_frames(summary)
