"""Capture of models that hide the batch from a tracer: traces at several batch sizes are merged into one program.

`[token] * len(x)`, `np.tile(..., [batch, 1])`, a batch size among the inputs, or heads folded into the batch fix the batch in a trace. The
model is therefore traced with fixed shapes at three batch sizes. The traces must have the same operators and differ only in integers and
constants. Each integer becomes a linear function of the batch through the first two traces, which must also hold at the third. Shapes are
recomputed with a free batch, and the program is compared with the model like any other program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from recfx.capture.batch_limits import LIMITS
from recfx.capture.generalize_constants import general_constant
from recfx.capture.larger_batches import largest_alike
from recfx.capture.separate_parts import separate_parts, varying_split
from recfx.capture.size_lines import Line, Sizes, line_through
from recfx.errors import CaptureError, VerificationError
from recfx.ir.batch_axes import Arrangement
from recfx.ir.leaves import LeafSpec
from recfx.ir.op_sets import EQUAL_SPLITS
from recfx.ir.program import ENDS_AT_LARGEST_BATCH, Program, get_state
from recfx.ir.propagate import new_size, refresh
from recfx.ir.provenance import where
from recfx.ir.shapes import BATCH

_aten = torch.ops.aten
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_TRACES = 3


class Different(Exception):
    """The traces differ in more than sizes, so they cannot be merged."""


def batch_sizes(leaves: Sequence[Any], rows: int) -> list[int]:
    """The batch sizes for the traces, none of which equals another size of the inputs."""
    taken = {size for leaf in leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape} - {rows}
    return [prime for prime in _PRIMES if prime not in taken][:_TRACES]


def generalize(
    arrangement: Arrangement,
    leaves: Sequence[Any],
    rows: int,
    trace: Callable[[Sequence[Any]], Program],
    max_batch: int,
) -> Program:
    """Merges traces at several batch sizes into one program for two rows and more.

    Args:
        arrangement: The place of the batch in the inputs.
        leaves: The example.
        rows: The batch size of the example.
        trace: Captures the model with fixed shapes for flat inputs.
        max_batch: The largest batch.

    Raises:
        Different: The traces differ in more than sizes; the message names the difference.
        CaptureError: A trace fails, or an operator fixes the batch.
    """
    batches = batch_sizes(leaves, rows)
    traces = [trace(arrangement.resized(leaves, rows, batch)) for batch in batches]
    split = varying_split(traces)
    if split is not None:
        traces = [separate_parts(program) for program in traces]
    try:
        writer = _Writer(traces, batches, arrangement)
    except Different as reason:
        if split is None or "unbind" in split:  # a Python loop over a tensor calls unbind
            raise
        raise Different(f"{split} makes another number of parts at another batch size") from reason
    program = writer.write()
    if arrangement.plain() and not writer.generalized and split is None:
        raise Different("the traces are the same")
    specs = [_spec(spec, position, arrangement) for position, spec in enumerate(traces[0].signature.leaves)]

    def alike(batch: int) -> bool:
        try:
            more = trace(arrangement.resized(leaves, rows, batch))
        except CaptureError:
            return True  # the model refuses so many rows
        try:
            _Writer([*traces, more], [*batches, batch], arrangement).write()
        except Different:
            return False
        return True

    entries = sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor)) // rows
    most = max_batch if split is not None else largest_alike(alike, batches[-1], max_batch, entries)
    dims = {BATCH: (2, most)}
    program.signature = dataclasses.replace(traces[0].signature, leaves=tuple(specs), dims=dims)
    program.example = tuple(leaves)
    program.notices = (
        *program.notices,
        f"the batch is hidden from the tracer; the program was made from traces at batches {', '.join(map(str, batches))}",
    )
    if most < max_batch:
        program.properties |= {ENDS_AT_LARGEST_BATCH}
        program.notices += (
            f"a branch on the batch size in forward {LIMITS} 2 to {most}: it computes larger batches in another way; compute both sides "
            "and choose with torch.where",
        )
    return program


def _spec(spec: LeafSpec, position: int, arrangement: Arrangement) -> LeafSpec:
    if position in arrangement.sizes:
        return dataclasses.replace(spec, kind="size", value=BATCH)
    axis = arrangement.axes[position]
    if axis is None:
        return spec
    shape = list(spec.shape)
    shape[axis.dim] = axis.size
    return dataclasses.replace(spec, shape=tuple(shape))


class _Writer:
    """Turns a copy of the first trace into the program with a free batch."""

    def __init__(self, traces: Sequence[Program], batches: Sequence[int], arrangement: Arrangement) -> None:
        self.traces, self.batches, self.arrangement = traces, batches, arrangement
        self.program = traces[0].clone()
        self.columns = _columns([self.program, *traces[1:]])
        self.numbers = [{node: i for i, node in enumerate(p.graph.nodes)} for p in (self.program, *traces[1:])]
        self.generalized = 0
        self.held: dict[fx.Node, list[Any]] = {}
        self.mode = FakeTensorMode(shape_env=ShapeEnv())

    def write(self) -> Program:
        graph = self.program.graph
        # The fake values of the traces stay outside the graph: an operator must not mix the values of two fake modes.
        self.held = {node: [other.meta.get("val") for other in column] for node, column in self.columns.items()}
        sizes = self._free_inputs()
        symbol = next(iter(sizes.batch.node.expr.free_symbols))
        for node in [n for n in graph.nodes if n in self.columns]:
            if node.op == "get_attr":
                node = self._constant(node, sizes)
            elif node.op == "call_function":
                node = self._operator(node, sizes)
            elif node.op == "output":
                self._same_output(node)
                continue
            elif node.op == "placeholder":
                continue
            env = self.mode.shape_env
            assert env is not None
            if symbol in env.replacements:
                raise CaptureError(
                    "an operator of the model fixes the batch",
                    where=where(node),
                    hint="take sizes from x.shape[0] or write -1, never a literal",
                )
        if not sizes.count.users:
            graph.erase_node(sizes.count)
        self.program.module.recompile()
        return self.program

    def _free_inputs(self) -> Sizes:
        batch = new_size(self.mode, BATCH, self.batches[0])
        first: tuple[fx.Node, int, int] | None = None
        placeholders = self.program.placeholders()
        for node in self.columns:
            if node.op in ("get_attr", "call_function"):
                node.meta.pop("val", None)
        with self.mode:
            for node, axis in zip(placeholders, self.arrangement.axes, strict=True):
                held = node.meta.get("val")
                if not isinstance(held, torch.Tensor):
                    continue
                shape: list[Any] = list(held.shape)
                if axis is not None:
                    shape[axis.dim] = batch * axis.step
                    first = first or (node, axis.dim, axis.step)
                node.meta["val"] = torch.empty(shape, dtype=held.dtype, device=held.device)
        if first is None:
            raise Different("no input tensor holds the batch")
        return Sizes(self.program.module, placeholders[-1], batch, *first)

    def _constant(self, node: fx.Node, sizes: Sizes) -> fx.Node:
        programs = [self.program, *self.traces[1:]]
        tensors = [get_state(p.module, str(n.target)) for p, n in zip(programs, self.columns[node], strict=True)]
        refresh(self.program.module, [node])
        if all(t is tensors[0] or _equal(t, tensors[0]) for t in tensors):
            return node
        self.generalized += 1
        made = general_constant(self.program, node, tensors, self.batches, sizes)
        if made is None:
            raise Different(
                f"a constant of {list(tensors[0].shape)} depends on the batch size in a way that is neither a tile nor a range"
            )
        self.numbers[0][made] = self.numbers[0][node]
        self.program.graph.erase_node(node)
        return made

    def _operator(self, node: fx.Node, sizes: Sizes) -> fx.Node:
        graph, column = node.graph, self.columns[node]
        with graph.inserting_before(node):
            args = self._general([n.args for n in column], node, sizes)
            kwargs = self._general([n.kwargs for n in column], node, sizes)
            if node.target in EQUAL_SPLITS and (lengths := self._lengths(node)) is not None:
                dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
                parts = [sizes.node(line) for line in lengths]
                node.target, args, kwargs = _aten.split_with_sizes.default, (args[0], parts, dim), {}
                self.generalized += 1
        node.args, node.kwargs = args, kwargs
        try:
            refresh(self.program.module, [node])
        except VerificationError as error:
            raise CaptureError(
                error.what,
                where=error.where,
                hint="pass dynamic_shapes=False to capture the model for the example's shapes alone",
            ) from error
        return node

    def _lengths(self, node: fx.Node) -> list[Line] | None:
        """The lengths of the parts of a split as lines over the batch; None when they are equal at every batch size."""
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        parts = [[part.shape[dim] for part in values] for values in self.held[node]]
        if any(len(p) != len(parts[0]) for p in parts) or all(p == parts[0] for p in parts):
            return None
        lines = [line_through(self.batches, list(lengths)) for lengths in zip(*parts, strict=True)]
        return [line for line in lines if line is not None] if None not in lines else None

    def _general(self, values: Sequence[Any], node: fx.Node, sizes: Sizes) -> Any:
        """The argument for a free batch, from its values in all traces."""
        first = values[0]
        if isinstance(first, fx.Node):
            self._same_sources(values, node)
            return first
        if any(type(v) is not type(first) for v in values):
            raise Different(f"{where(node)} takes arguments of other types at another batch size")
        if isinstance(first, tuple | list):
            if any(len(v) != len(first) for v in values):
                raise Different(f"{where(node)} takes more arguments at a larger batch: forward loops over the rows")
            return type(first)(self._general(entries, node, sizes) for entries in zip(*values, strict=True))
        if isinstance(first, dict):
            return {key: self._general([v[key] for v in values], node, sizes) for key in first}
        if all(v == first or (v != v and first != first) for v in values):
            return first
        line = None if isinstance(first, bool) else line_through(self.batches, values)
        if line is None:
            raise Different(
                f"{where(node)} takes {', '.join(map(str, values))} at batches {', '.join(map(str, self.batches))}"
            )
        self.generalized += 1
        return sizes.node(line)

    def _same_sources(self, values: Sequence[Any], node: fx.Node) -> None:
        numbers = [n.get(v) for n, v in zip(self.numbers, values, strict=True)]
        if any(number != numbers[0] for number in numbers):
            raise Different(f"{where(node)} reads another value at another batch size")

    def _same_output(self, node: fx.Node) -> None:
        outputs: list[Any] = [n.args[0] for n in self.columns[node]]
        for values in zip(*outputs, strict=True):
            if isinstance(values[0], fx.Node):
                self._same_sources(values, node)
            elif any(v != values[0] for v in values):
                raise Different("an output is the batch size itself; return a tensor")


def _columns(programs: Sequence[Program]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Node of the first program -> the corresponding node of every program."""
    lists = [list(program.graph.nodes) for program in programs]
    if any(len(nodes) != len(lists[0]) for nodes in lists):
        counts = ", ".join(str(len(nodes)) for nodes in lists)
        raise Different(
            f"forward runs another number of operators at another batch size ({counts}): it loops over the rows"
        )
    columns = list(zip(*lists, strict=True))
    for column in columns:
        if any(n.op != column[0].op or (n.op == "call_function" and n.target != column[0].target) for n in column):
            raise Different(f"{where(column[0])} is another operator at another batch size")
    return {column[0]: column for column in columns}


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return bool(a == b)
    return a.shape == b.shape and a.dtype is b.dtype and torch.equal(a, b)
