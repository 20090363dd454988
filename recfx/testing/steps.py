"""All steps of random recommendation graphs, by name. Importing this module fills the table."""

from __future__ import annotations

from recfx.testing import (  # noqa: F401 - they register their steps
    steps_dialect,
    steps_elementwise,
    steps_lookups,
    steps_matrix,
    steps_patterns,
    steps_shapes,
    steps_twins,
)
from recfx.testing.pool import Pool
from recfx.testing.step_table import STEPS, Step

__all__ = ["STEPS", "Pool", "Step"]
