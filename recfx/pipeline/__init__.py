"""How passes run: declarations, the pipeline, the gate and bisection, instruments, the reproducer."""

from recfx.pipeline.base import Pass
from recfx.pipeline.bisect import BisectResult
from recfx.pipeline.context import PACKED, Packed, PassContext
from recfx.pipeline.gate import Gate
from recfx.pipeline.instruments import Announce, Dump, Instrument, PrintAfter, Timing
from recfx.pipeline.pipeline import Pipeline, run_pass
from recfx.pipeline.properties import property_check
from recfx.pipeline.records import MissRecord, PassRecord, PipelineResult
from recfx.pipeline.registry import register, registered
from recfx.pipeline.rewrite import apply_rules, rewrite
from recfx.pipeline.spec import Miss, PassSpec

__all__ = [
    "PACKED",
    "Announce",
    "BisectResult",
    "Dump",
    "Gate",
    "Instrument",
    "Miss",
    "MissRecord",
    "Packed",
    "Pass",
    "PassContext",
    "PassRecord",
    "PassSpec",
    "Pipeline",
    "PipelineResult",
    "PrintAfter",
    "Timing",
    "apply_rules",
    "property_check",
    "register",
    "registered",
    "rewrite",
    "run_pass",
]
