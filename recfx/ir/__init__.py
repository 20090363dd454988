"""What a model is once captured: capture, `Program`, verifier, printer, diff and the flat runner."""

from recfx.ir.capture import MAX_BATCH, capture
from recfx.ir.diff import diff, same_graph
from recfx.ir.entry import entry_function
from recfx.ir.flat import flat_function
from recfx.ir.leaves import LeafSpec
from recfx.ir.numeric import Exactness, verify_numeric
from recfx.ir.printer import render
from recfx.ir.program import Applied, Origin, Program
from recfx.ir.signature import Signature
from recfx.ir.verify import Level, verify_meta, verify_structure

__all__ = [
    "MAX_BATCH",
    "Applied",
    "Exactness",
    "LeafSpec",
    "Level",
    "Origin",
    "Program",
    "Signature",
    "capture",
    "diff",
    "entry_function",
    "flat_function",
    "render",
    "same_graph",
    "verify_meta",
    "verify_numeric",
    "verify_structure",
]
