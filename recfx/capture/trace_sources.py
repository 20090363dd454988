"""The user's source lines of recorded nodes, formatted once for each place in the model's code.

For every node, torch resolves and formats all frames of the call stack, and then keeps those of `forward` methods. Here the frames are
selected first. Equal frames at equal lines have one text.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Functions and lines.
_Places = tuple[tuple[CodeType, int], ...]
#: Functions that can be left and entered again, from another caller or line.
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class TraceSources:
    """Places in the model's code -> the text that a node's stack trace holds.

    Attributes:
        formatted: How many texts were formatted.
    """

    def __init__(self) -> None:
        self._shown: dict[CodeType, bool] = {}
        self._texts: dict[_Places, str] = {}
        #: The stack of the last node, from the outermost frame on, each with the places of its callers.
        self._stack: list[tuple[FrameType, _Places]] = []
        self._depths: dict[FrameType, int] = {}
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

    def forget(self) -> None:
        """Drops the frames of the last node, which hold the variables of the model's code."""
        self._stack.clear()
        self._depths.clear()

    def _text(self, tracer: Any) -> str:
        key = self._places(tracer, sys._getframe(2))
        text = self._texts.get(key)
        if text is None:
            frames = [traceback.FrameSummary(c.co_filename, line, c.co_name) for c, line in reversed(key)]
            text = self._texts[key] = "".join(traceback.StackSummary.from_list(frames).format()).strip()
            self.formatted += 1
        return text

    def _places(self, tracer: Any, innermost: FrameType) -> _Places:
        """The functions that are shown with their lines, from the innermost on.

        A trace is some eighty frames deep, and most nodes share all but a few of them with the node before. The walk ends at the first
        frame that was on the stack of that node: its callers wait at the same lines, unless it is a generator.
        """
        walked: list[FrameType] = []
        frame: FrameType | None = innermost
        while frame is not None and (frame not in self._depths or frame.f_code.co_flags & _RESUMED):
            walked.append(frame)
            frame = frame.f_back
        depth = -1 if frame is None else self._depths[frame]
        for left, _ in self._stack[depth + 1 :]:
            del self._depths[left]
        del self._stack[depth + 1 :]
        places = () if frame is None else (*self._place(tracer, frame), *self._stack[depth][1])
        for called in reversed(walked):
            self._depths[called] = len(self._stack)
            self._stack.append((called, places))
            places = (*self._place(tracer, called), *places)
        return places

    def _place(self, tracer: Any, frame: FrameType) -> _Places:
        """The function and the line of a frame, if it is shown."""
        code = frame.f_code
        shown = self._shown.get(code)
        if shown is None:
            shown = self._shown[code] = bool(self._kept(tracer, code, frame.f_lineno))
        return ((code, frame.f_lineno),) if shown else ()

    def _kept(self, tracer: Any, code: CodeType, line: int) -> Any:
        """Whether torch keeps the frames of a function."""
        summary = traceback.StackSummary.from_list([traceback.FrameSummary(code.co_filename, line, code.co_name)])
        return tracer._filter_traceback_frames(summary)
