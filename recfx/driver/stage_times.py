"""Times the stages of `optimize`, and turns unexpected errors in a stage into errors of recfx."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recfx.errors import RecfxError


class StageTimes:
    """Seconds of each stage.

    Args:
        model: The name of the model, for errors.
        begin: Called with the name of each stage when it begins.
    """

    def __init__(self, model: str, begin: Callable[[str], None] = lambda stage: None) -> None:
        self.model = model
        self.begin = begin
        self.seconds: dict[str, float] = {}

    @contextmanager
    def run(self, stage: str, kind: type[RecfxError]) -> Iterator[None]:
        """Times a stage. An error that is not a RecfxError becomes an error of `kind` that names the stage.

        Args:
            stage: Its name in the report.
            kind: The exception to raise.

        Raises:
            RecfxError: Something in the stage failed.
        """
        self.begin(stage)
        start = time.perf_counter()
        try:
            yield
        except (RecfxError, MemoryError):
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise kind(
                f"the stage {stage!r} failed unexpectedly: {text[:400]}",
                where=self.model,
                hint="this is a fault of recfx, please report it with the model; a part of the model can be optimized separately: "
                "recfx.optimize(model.submodule, ...)",
            ) from error
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
