"""The testing kit for authors of passes.

    def test_my_pass():
        recfx.testing.assert_pass_preserves(my_pass)          # on random recommendation graphs, shrunk when it is wrong

`GraphBuilder` makes programs by hand in a millisecond; `rec_graphs`, `tensors_for`, `batch_sizes` and `pipelines` are Hypothesis
strategies; `pass_order_machine` tries passes in any legal order.
"""

from recfx.errors import RecfxError

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise RecfxError("recfx.testing needs Hypothesis", hint="pip install 'recfx[testing]'") from error

from recfx.testing.assertions import assert_pass_preserves, assert_same_graph
from recfx.testing.builder import GraphBuilder
from recfx.testing.machine import pass_order_machine
from recfx.testing.strategies import batch_sizes, pipelines, rec_graphs, tensors_for

__all__ = [
    "GraphBuilder",
    "assert_pass_preserves",
    "assert_same_graph",
    "batch_sizes",
    "pass_order_machine",
    "pipelines",
    "rec_graphs",
    "tensors_for",
]
