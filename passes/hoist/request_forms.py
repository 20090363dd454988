"""The two forms of a request's value, one row per request and one row per candidate, for the rules of hoist-requests."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import fx

from recfx.analysis.batch_axis import Rows, depends_on, multiple
from recfx.analysis.origins import Origins, origins
from recfx.errors import VerificationError
from recfx.ir.access import argument_of, tensor_of
from recfx.ir.program import Origin
from recfx.ir.provenance import where
from recfx.pipeline import PassContext

_aten = torch.ops.aten


class Shared:
    """Finds values with one row per request, and inserts their repetition for the candidates ("wide" values).

    Args:
        ctx: The pass context.
    """

    def __init__(self, ctx: PassContext) -> None:
        self.ctx = ctx
        self.found: Origins = origins(ctx.program)
        self._sizes: dict[str, fx.Node] = {}
        self._made: dict[fx.Node, fx.Node] = {}

    @property
    def many(self) -> bool:
        """Whether a call may hold several requests."""
        return self.found.index is not None

    def once(self, node: Any) -> fx.Node | None:
        """The value with one row per request that a wide node repeats; None for any other node."""
        if node in self._made:
            return self._made[node]
        if isinstance(node, fx.Node) and node in self.found.of and self.found.is_root(node):
            source = argument_of(node, 0, fx.Node)
            return source if self.found[node].origin is Origin.REQUEST else None
        return None

    def once_of(self, node: fx.Node) -> fx.Node:
        """The value with one row per request behind a node that is known to repeat it.

        Raises:
            VerificationError: The node does not repeat a value of the request.
        """
        found = self.once(node)
        if found is None:
            raise VerificationError("expected the repetition of a request's value", where=where(node))
        return found

    def is_repeated(self, node: fx.Node) -> bool:
        """Whether a value repeats a row of the request for each candidate."""
        return node in self.found.of and self.found[node].repeated and self.found[node].origin is Origin.REQUEST

    def widen(self, node: fx.Node, rows: Rows = Rows(0)) -> fx.Node:  # noqa: B008 - frozen
        """Inserts the repetition of a value for the candidates."""
        call, held = self.ctx.call, tensor_of(node)
        if rows.inner > 1:
            sizes = list(held.shape)
            whole = [*sizes[: rows.axis], self.per_request(), rows.inner, *sizes[rows.axis + 1 :]]
            wide = self.widen(call(_aten.reshape.default, node, whole), Rows(rows.axis))
            flat = [*sizes[: rows.axis], self.scaled(self.rows(), rows.inner), *sizes[rows.axis + 1 :]]
            return call(_aten.reshape.default, wide, flat)
        if self.many:
            wide = call(_aten.index_select.default, node, rows.axis, self.found.index)
        else:
            shape: list[Any] = [self.rows() if i == rows.axis else -1 for i in range(held.ndim)]
            wide = call(_aten.expand.default, node, shape)
        self._made[wide] = node
        return wide

    def join(self, wide: fx.Node, once: fx.Node) -> fx.Node:
        """Inserts the sum of a value of the candidates and one of the request."""
        if self.many:
            once = self.widen(once)
        return self.ctx.call(_aten.add.Tensor, wide, once)

    def rows(self) -> fx.Node:
        """The number of candidates."""
        return self._size("rows", self.found.batch_input)

    def per_request(self) -> Any:
        """The number of requests: 1, or a node."""
        return self._size("requests", self.found.request_input) if self.many else 1

    def once_size(self, node: fx.Node) -> Any:
        """The size node for one row per request: `scaled_size` of a multiple of the batch; any other size node as it is."""
        size = node.meta.get("val")
        return self.scaled_size(size) if depends_on(size, self.batch) else node

    def scaled_size(self, size: Any) -> Any:
        """A size `k * batch` for one row per request: `k` times the number of requests.

        Raises:
            VerificationError: The size is not a multiple of the batch.
        """
        times = multiple(size, self.batch)
        if times is None:
            raise VerificationError(f"expected a multiple of the batch {self.batch}, got the size {size}")
        return self.scaled(self.per_request(), times)

    @property
    def batch(self) -> sympy.Symbol:
        """The symbol of the batch.

        Raises:
            VerificationError: No input has a batch.
        """
        if self.found.batch is None:
            raise VerificationError("expected an input with a batch, the program has none")
        return self.found.batch

    def scaled(self, size: Any, times: int) -> Any:
        """`size * times`."""
        return (
            size * times
            if isinstance(size, int)
            else (size if times == 1 else self.ctx.call(operator.mul, size, times))
        )

    def _size(self, kind: str, source: fx.Node | None) -> fx.Node:
        """The first size of an input, read at the start of the graph."""
        if kind not in self._sizes:
            if source is None:
                raise VerificationError(
                    f"expected an input whose first size is the number of {kind}, the program has none"
                )
            reads = (n for n in source.users if n.target is _aten.sym_size.int and n.args[1] == 0)
            last = self.ctx.program.placeholders()[-1]
            found = next((n for n in reads if n.prev is last or n.prev.target is _aten.sym_size.int), None)
            if found is None:
                with self.ctx.before(last.next):
                    found = self.ctx.call(_aten.sym_size.int, source, 0)
            self._sizes[kind] = found
        return self._sizes[kind]
