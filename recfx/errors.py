"""The exceptions recfx raises: one small tree, so that `except recfx.RecfxError` catches them all.

Every message says what is wrong, where it is, and what to do next; `RecfxError` takes the three as separate arguments so that none is
forgotten.
"""

from __future__ import annotations

from typing import ClassVar


class RecfxError(Exception):
    """The root of every error recfx raises on purpose.

    Args:
        what: The fault, in one sentence.
        where: The module path, graph node, input or user's source line it concerns.
        hint: The next step for the reader; by default that of the class.

    Attributes:
        next_step: The next step after an error of the class that gives none of its own.
    """

    next_step: ClassVar[str] = "correct what the message names, and try again"

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint or self.next_step
        parts = [what]
        if where:
            parts.append(f"  where: {where}")
        parts.append(f"  next:  {self.hint}")
        super().__init__("\n".join(parts))

    @property
    def in_one_line(self) -> str:
        """The fault and its place, for a notice."""
        return self.what if self.where is None else f"{self.what};  where: {self.where}"


class CaptureError(RecfxError):
    """The model could not be captured as a graph, or the captured graph does not compute the same as the model."""


class InputError(RecfxError, ValueError):
    """Inputs that do not fit the model: wrong rank, dtype, device, batch size, missing or unknown names, bad ids."""


class IdError(InputError):
    """An id outside its table."""


class VerificationError(RecfxError):
    """A program is malformed, or a pass changed its results."""

    next_step: ClassVar[str] = (
        "find the rewrite at fault with Pipeline.bisect(program, is_bad); report the model when that is a pass of recfx"
    )


class PipelineError(RecfxError):
    """A pipeline that cannot run as written: unknown passes or options, broken ordering rules."""


class PassError(RecfxError):
    """A pass raised, or left a program that fails verification; `reproducer` is the folder to re-run it from."""

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, reproducer: str | None = None
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.reproducer = reproducer


class TargetError(RecfxError):
    """A target that does not exist, is not installed here, or cannot run the program."""


class ArtifactError(RecfxError):
    """A saved model that is damaged, cut short, or written by an incompatible version."""

    next_step: ClassVar[str] = "copy the folder again, or save it again from the model with this version of recfx"


class DataError(RecfxError, ValueError):
    """Data files or arrays that do not have the expected format."""


class MeasureError(RecfxError):
    """A measurement that could not be made."""
