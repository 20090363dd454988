"""Checks before long work, such as a training, that leads to a compiled model."""

from __future__ import annotations

from collections.abc import Sequence

from recfx.driver.options import PipelineLike, choose_pipeline
from recfx.driver.output_folder import require_output

__all__ = ["require_output", "require_pipeline"]


def require_pipeline(pipeline: PipelineLike, target: str | Sequence[str] = "cpu") -> None:
    """Checks that a pipeline can run.

    Raises:
        PipelineError: It cannot run as written.
    """
    choose_pipeline(pipeline, target, False, "fp32", {})
