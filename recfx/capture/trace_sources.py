"""The user's source lines of recorded nodes, formatted once for each place in the model's code.

For every node, torch resolves and formats all frames of the call stack, and then keeps those of `forward` methods. Here the frames are
selected first, and the walk ends at the innermost selected frame that was on the stack at the last node, too: its callers wait at the
same lines. Equal frames at equal lines have one text.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Flags of functions that can go on from another caller than the one that they began with.
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Place:
    """A line of a function, with the places of its callers.

    Attributes:
        caller: The place that called the function; None for the outermost selected frame.
        frame: What a traceback shows of the frame; None at the root, which is the place outside every selected frame.
        inner: Code and line -> a place inside the call at this line.
        text: What a node's stack trace holds; None until a node needs it.
    """

    __slots__ = ("caller", "frame", "inner", "text")

    def __init__(self, caller: _Place | None, frame: traceback.FrameSummary | None) -> None:
        self.caller, self.frame = caller, frame
        self.inner: dict[tuple[int, int], _Place] = {}
        self.text: str | None = None


class TraceSources:
    """Places in the model's code -> the text that a node's stack trace holds.

    Attributes:
        formatted: How many texts were formatted.
    """

    def __init__(self) -> None:
        #: Id of a function's code -> the code, which is held so that no other gets its id, and whether torch keeps its frames. A lookup
        #: by the code itself would compute a hash of all its constants.
        self._codes: dict[int, tuple[CodeType, bool]] = {}
        self._root = _Place(None, None)
        #: The selected frames of the last node's call stack, from the outermost, and for each the place of its callers.
        self._stack: list[FrameType] = []
        self._callers: dict[FrameType, _Place] = {}
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

    def release(self) -> None:
        """Drops the frames of the last call stack, which hold the model's local variables."""
        self._stack.clear()
        self._callers.clear()

    def _text(self, tracer: Any) -> str:
        place = self._place(tracer)
        if place.text is None:
            frames, at = [], place
            while at.caller is not None and at.frame is not None:
                frames.append(at.frame)
                at = at.caller
            place.text = "".join(traceback.StackSummary.from_list(frames[::-1]).format()).strip()
            self.formatted += 1
        return place.text

    def _place(self, tracer: Any) -> _Place:
        """The place of the caller of `create_node`."""
        frame: FrameType | None = sys._getframe(3)
        codes, callers = self._codes, self._callers
        found: list[FrameType] = []
        place = self._root
        while frame is not None:
            code = frame.f_code
            held = codes.get(id(code))
            if held is None:
                held = codes[id(code)] = code, bool(self._kept(tracer, code, frame.f_lineno))
            if held[1]:
                found.append(frame)
                if frame in callers:
                    place = callers[frame]
                    break
            frame = frame.f_back
        self._leave(frame)
        for frame in reversed(found):
            place = self._enter(frame, place)
        return place

    def _leave(self, last: FrameType | None) -> None:
        """Drops the frames inside a frame of the last call stack, and that frame; all without one."""
        while self._stack:
            frame = self._stack.pop()
            del self._callers[frame]
            if frame is last:
                return

    def _enter(self, frame: FrameType, callers: _Place) -> _Place:
        """The place in a frame whose callers are known."""
        code, line = frame.f_code, frame.f_lineno
        if not code.co_flags & _RESUMED:
            self._stack.append(frame)
            self._callers[frame] = callers
        place = callers.inner.get((id(code), line))
        if place is None:
            summary = traceback.FrameSummary(code.co_filename, line, code.co_name)
            place = callers.inner[id(code), line] = _Place(callers, summary)
        return place

    def _kept(self, tracer: Any, code: CodeType, line: int) -> Any:
        """Whether torch keeps the frames of a function."""
        summary = traceback.StackSummary.from_list([traceback.FrameSummary(code.co_filename, line, code.co_name)])
        return tracer._filter_traceback_frames(summary)
