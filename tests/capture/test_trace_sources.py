"""Stack traces of recorded nodes: the frames that two nodes share are walked once."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recfx.capture.trace_sources import TraceSources


class Tracer:
    """Keeps the frames of this file, as torch keeps those of models."""

    def _filter_traceback_frames(self, summary: traceback.StackSummary) -> list[traceback.FrameSummary]:
        return [frame for frame in summary if frame.filename == __file__]


class Recorder:
    """Records the stack in two ways: with what is known of the stack before, and in a walk of the whole stack."""

    def __init__(self) -> None:
        self.sources = TraceSources()
        self.texts: list[tuple[str, str]] = []

    def record(self) -> None:
        known, whole = self.sources._text(Tracer()), TraceSources()._text(Tracer())
        self.texts.append((known, whole))


def _there(recorder: Recorder) -> None:
    recorder.record()


def _calls(recorder: Recorder, steps: list[Any]) -> None:
    for step in steps:
        if step == "here":
            recorder.record()
        elif step == "there":
            _there(recorder)
        elif step[0] == "call":
            _calls(recorder, step[1])
        elif step[0] == "two lines":
            _calls(recorder, step[1])
            _calls(recorder, step[1])
        else:
            _resume(_generated(recorder, step[1]))


def _generated(recorder: Recorder, steps: list[Any]) -> Iterator[None]:
    for step in steps:
        _calls(recorder, [step])
        yield
        recorder.record()


def _resume(steps: Iterator[None]) -> None:
    next(steps, None)
    for _ in steps:
        pass


def _steps() -> st.SearchStrategy[list[Any]]:
    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.tuples(st.sampled_from(["call", "two lines", "resumed"]), st.lists(inner, max_size=3))

    return st.lists(st.recursive(st.sampled_from(["here", "there"]), nested, max_leaves=12), max_size=4)


@given(_steps())
def test_texts_are_those_of_a_walk_of_the_whole_stack(steps: list[Any]) -> None:
    recorder = Recorder()
    _calls(recorder, steps)
    _calls(recorder, steps)
    assert all(known == whole for known, whole in recorder.texts)
    assert all("_calls" in known for known, _ in recorder.texts)


def test_two_lines_of_a_function_have_two_texts() -> None:
    recorder = Recorder()
    recorder.record()
    recorder.record()
    (first, _), (second, _) = recorder.texts
    assert first != second
    assert recorder.sources.formatted == 2


def test_equal_places_are_formatted_once() -> None:
    recorder = Recorder()
    for _ in range(5):
        _calls(recorder, ["here", "there"])
    assert recorder.sources.formatted == 2


def test_frames_are_dropped() -> None:
    recorder = Recorder()
    recorder.record()
    assert recorder.sources._stack
    recorder.sources.forget()
    assert not recorder.sources._stack
    assert not recorder.sources._depths
