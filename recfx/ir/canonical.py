"""Digests of regions that do not depend on names, nor on the order in which independent operators are listed.

Operators are numbered by a traversal from the outputs to the inputs that follows the order of the operands, so the digest depends only on
the graph. The order of inputs and outputs counts, because regions are called by position.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sympy
import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.ir.plain_values import encode
from recfx.ir.program import dense_parts, get_state
from recfx.ir.provenance import where
from recfx.ir.region import Region

_BATCH_NAME = "batch"
#: Bytes that one thread hashes at a time.
_CHUNK = 16 << 20


def structure_digest(region: Region) -> str:
    """SHA-256 of a region's graph: operators, arguments, dtypes, sizes and strides of inputs, and forms of the state.

    Two regions with equal digests do the same work. They may differ in the values of their state and in names. Symbols are renamed in order
    of their first use; the batch keeps a name of its own.

    Raises:
        ArtifactError: An argument has no plain form, so the region has no digest.
    """
    return _Canonical(region).digest()


def content_digest(region: Region) -> str:
    """SHA-256 of a region's structure and of all bytes of its state.

    Tables are hashed whole, by several threads. A sample would be unsafe: a package that holds the weights would be used again after
    a row outside the sample has changed.

    Raises:
        ArtifactError: An argument has no plain form, so the region has no digest.
    """
    canonical = _Canonical(region)
    whole = hashlib.sha256(canonical.digest().encode())
    for tensor in canonical.tensors():
        whole.update(_tensor_digest(tensor))
    return whole.hexdigest()


class _Canonical:
    """A region as lines of text.

    Args:
        region: The region.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        self.symbols: dict[sympy.Symbol, sympy.Symbol] = {}
        if isinstance(region.batch, sympy.Symbol):
            self.symbols[region.batch] = sympy.Symbol(_BATCH_NAME, positive=True, integer=True)
        self.number: dict[fx.Node, int] = {}
        self.reads: dict[str, int] = {}
        for node in self._order():
            self.number[node] = len(self.number)

    def digest(self) -> str:
        """SHA-256 of the lines."""
        whole = hashlib.sha256()
        for node in self.number:
            whole.update(strict_json.dump(self._line(node)))
        return whole.hexdigest()

    def tensors(self) -> Iterator[torch.Tensor]:
        """The tensors of the state, in canonical order; sparse ones as their parts."""
        for name in self.reads:
            yield from dense_parts(get_state(self.region.module, name))

    def _order(self) -> Iterator[fx.Node]:
        """Inputs, then operators behind their operands, then operators that no output needs."""
        seen = set(self.region.placeholders())
        yield from self.region.placeholders()
        last = next(iter(reversed(self.region.graph.nodes)))
        for root in (last, *self.region.graph.nodes):
            stack = [root]
            while stack:
                node = stack[-1]
                waiting = [operand for operand in node.all_input_nodes if operand not in seen]
                if waiting:
                    stack.append(waiting[0])
                    continue
                stack.pop()
                if node not in seen:
                    seen.add(node)
                    yield node

    def _line(self, node: fx.Node) -> list[Any]:
        if node.op == "placeholder":
            return ["input", self._form(node.meta.get("val"), strides=True)]
        if node.op == "get_attr":
            return ["state", *self._state(str(node.target))]
        if node.op == "output":
            return ["output", self._argument(node.args[0], node)]
        arguments = [self._argument(value, node) for value in node.args]
        named = {key: self._argument(value, node) for key, value in sorted(node.kwargs.items())}
        return [_operator(node), arguments, named, self._form(node.meta.get("val"))]

    def _state(self, name: str) -> list[Any]:
        """The number and the form of a state tensor."""
        value = get_state(self.region.module, name)
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(
                f"the state {name!r} is a {type(value).__name__}, not a tensor", hint="store only tensors in the state"
            )
        number = self.reads.setdefault(name, len(self.reads))
        return [number, *([*self._form(part, strides=True), str(value.layout)] for part in dense_parts(value))]

    def _form(self, value: Any, *, strides: bool = False) -> Any:
        """The dtype, the device and the sizes of a value."""
        if isinstance(value, tuple | list):
            return [self._form(item, strides=strides) for item in value]
        if isinstance(value, torch.Tensor):
            form = [str(value.dtype), str(value.device), [self._size(size) for size in value.shape]]
            dense = strides and value.layout is torch.strided
            return [*form, [self._size(size) for size in value.stride()]] if dense else form
        return self._size(value)

    def _size(self, value: Any) -> Any:
        """A size with its symbols renamed."""
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return value if value is None or isinstance(value, int | float | bool) else type(value).__qualname__
        expression = value.node.expr
        for part in sympy.preorder_traversal(expression):
            if isinstance(part, sympy.Symbol) and part not in self.symbols:
                self.symbols[part] = sympy.Symbol(f"d{len(self.symbols)}", positive=True, integer=True)
        return str(expression.xreplace(self.symbols))

    def _argument(self, value: Any, node: fx.Node) -> Any:
        """An argument of a node, with numbers for nodes."""
        if isinstance(value, fx.Node):
            return {"node": self.number[value]}
        if isinstance(value, tuple | list):
            return [self._argument(item, node) for item in value]
        if isinstance(value, slice):
            return {"slice": [self._argument(part, node) for part in (value.start, value.stop, value.step)]}
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return {"size": self._size(value)}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        try:
            return encode(value)
        except ArtifactError as error:
            raise ArtifactError(error.what, where=where(node), hint=error.hint) from error


def _operator(node: fx.Node) -> str:
    """The name of a node's operator."""
    if isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return f"op:{node.target}"
    return f"{getattr(node.target, '__module__', '')}:{getattr(node.target, '__qualname__', node.target)}"


def _tensor_digest(tensor: torch.Tensor) -> bytes:
    """SHA-256 of the digests of a tensor's chunks. Threads hash the chunks; `hashlib` releases the interpreter's lock."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    data = memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")  # type: ignore[arg-type]
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    if len(chunks) < 2:
        return hashlib.sha256(data).digest()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return hashlib.sha256(b"".join(pool.map(lambda chunk: hashlib.sha256(chunk).digest(), chunks))).digest()
