"""A captured model: `Program`, verifier, printer and diff."""

from recfx.ir.diff import diff, same_graph
from recfx.ir.leaves import LeafSpec
from recfx.ir.numeric import Exactness, verify_numeric
from recfx.ir.printer import render
from recfx.ir.program import Applied, Origin, Program
from recfx.ir.signature import Signature
from recfx.ir.verify import Level, verify_meta, verify_structure

__all__ = [
    "Applied",
    "Exactness",
    "LeafSpec",
    "Level",
    "Origin",
    "Program",
    "Signature",
    "diff",
    "render",
    "same_graph",
    "verify_meta",
    "verify_numeric",
    "verify_structure",
]
