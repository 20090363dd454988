"""Quantisation-aware training: a program whose linears and tables are rounded while it is trained, as the passes store them afterwards.

    linear(x, W)         -> linear(x rounded per row, W rounded per output channel)        quantize-linears, 8 bits
    embedding(T, ids)    -> the looked-up rows rounded, each on a grid of its own          quantize-tables, 8, 4 or 2 bits

The gradient through rounding is that of an estimator of `recfx.learn.ESTIMATORS`. Inputs of linears are rounded as `recfx::mlp` rounds
them, with a straight-through gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from recfx.errors import InputError
from recfx.hutchinson import hutchinson_trace
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program, get_state, unused_name
from recfx.ir.program_module import ProgramModule
from recfx.learn.bounds import PerRowBounds
from recfx.learn.bounds.symmetric_row import SymmetricRowBounds
from recfx.learn.estimators import ESTIMATORS, Estimator, HessianScaled
from recfx.learn.estimators.base import to_grid
from recfx.learn.finetuning.trainable import trainable
from recfx.learn.quantizer import Quantizer, SymmetricQuantizer
from recfx.ops.mlp import quantize_rows

_aten = torch.ops.aten
_ONE_ROW_EACH = (_aten.embedding.default,)
_TABLE_BITS = (8, 4, 2)


class FakeQuantized(ProgramModule[Program]):
    """A program with rounded linears and tables; its parameters are the values before rounding.

    Made by `fake_quantize`.

    Args:
        program: The program, whose tensors become the parameters.
        linears: Name of a weight -> its quantiser.
        tables: Name of a table -> its quantiser.
        inputs: Whether the inputs of the linears are rounded.

    Attributes:
        inputs: Whether the inputs of the linears are rounded.
    """

    def __init__(
        self, program: Program, linears: dict[str, Quantizer], tables: dict[str, Quantizer], *, inputs: bool
    ) -> None:
        super().__init__(program)
        self.inputs = inputs
        self._linears, self._tables = linears, tables
        self._given: dict[str, Tensor] = {}
        self._rounded: dict[int, Tensor] = {}  # the rounded weights of the call that runs, by their ids
        self.add_module(
            unused_name(program.module, "fake_quantizers"), nn.ModuleList([*linears.values(), *tables.values()])
        )

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """Name of a weight or table -> its quantiser."""
        return {**self._linears, **self._tables}

    def read(self, node: fx.Node, _: Any) -> Any:
        """The rounded weight of a linear; other state as it is."""
        name = str(node.target)
        weight = self.held(name)
        if name not in self._linears:
            return weight
        made = self._given[name] if name in self._given else self._linears[name](weight)
        self._rounded[id(made)] = made
        return made

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `ProgramModule`."""
        try:
            return super().run(args, kwargs)
        finally:
            self._rounded.clear()

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Computes an operator with rounded inputs and rows."""
        if self.inputs and target is _aten.linear.default and id(args[1]) in self._rounded:
            args = (rounded_input(args[0]), *args[1:])
        table = self._of_table(target, args)
        if table is None:
            return super().call(target, args, kwargs)
        if target in _ONE_ROW_EACH:
            rows = super().call(target, args, kwargs)
            flat: Tensor = table(rows.reshape(-1, rows.shape[-1]))
            return flat.reshape(rows.shape)
        return super().call(target, (table(args[0]), *args[1:]), kwargs)

    def _of_table(self, target: Any, args: Any) -> Quantizer | None:
        if target not in TABLE_LOOKUPS:
            return None
        return next((q for name, q in self._tables.items() if self.held(name) is args[0]), None)

    @torch.no_grad()
    def rounded(self) -> ProgramModule[Program]:
        """A plain module with the rounded values as its weights, for `recfx.optimize(..., precision="int8")`."""
        made = self.program.as_module()
        for name, quantizer in self.quantizers.items():
            made.held(name).copy_(quantizer(self.held(name)))
        return made

    def update_deltas(self, loss: Callable[[], Tensor], *, probes: int = 8) -> list[float]:
        """Sets the delta of GSTE for the weights of linears: (Tr(H) / N) / mean |g|, by Hutchinson's estimator. H and g are with respect to
        the rounded weights on [0, 1].

        Args:
            loss: Calls this module on a batch and returns the loss.
            probes: The largest number of probes.

        Returns:
            The delta of each weight with such an estimator.
        """
        scaled = {n: q for n, q in self._linears.items() if isinstance(q.estimator, HessianScaled)}
        with torch.no_grad():
            grids = {name: quantizer.grid(self.held(name)) for name, quantizer in scaled.items()}
            points = [to_grid(grid.x, scaled[name].steps) for name, grid in grids.items()]

        def value(*rounded: Tensor) -> Tensor:
            self._given = {n: g.lower + g.span * x for (n, g), x in zip(grids.items(), rounded, strict=True)}
            try:
                return loss()
            finally:
                self._given = {}

        if not points:
            return []
        leaves = [point.requires_grad_() for point in points]
        gradients = torch.autograd.grad(value(*leaves), leaves, materialize_grads=True)
        traces = hutchinson_trace(value, leaves, probes=probes).traces
        found = []
        for quantizer, gradient, trace in zip(scaled.values(), gradients, traces, strict=True):
            size = float(gradient.abs().mean())
            delta = max(0.0, trace / gradient.numel() / size) if size > 0 else 0.0
            estimator: Any = quantizer.estimator
            estimator.set_delta(delta if math.isfinite(delta) else 0.0)
            found.append(float(estimator.delta))
        return found


class _RoundedInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        codes, scale = quantize_rows(x.reshape(-1, x.shape[-1]))
        return (codes * scale).to(x.dtype).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def rounded_input(x: Tensor) -> Tensor:
    """The input of a linear as an int8 layer reads it, [..., K]; the gradient passes straight through."""
    found: Tensor = _RoundedInput.apply(x)
    return found


def fake_quantize(
    program: Program,
    *,
    linears: bool = True,
    tables: int | None = 8,
    estimator: str = "ste",
    inputs: bool = True,
    min_weights: int = 4096,
    min_outputs: int = 2,
) -> FakeQuantized:
    """A module of a program that rounds linears to int8 and tables to a few bits, to train with `finetune` or any loop.

    Which linears are rounded, and how, agrees with `quantize-linears` and `quantize-tables`. Run the folds before
    (`"canonicalize,fold-affine,fold-batchnorm"`): they change weights.

    Args:
        program: A captured program, before operators of the dialect are formed. It stays as it is.
        linears: Whether linears are rounded to 8 bits.
        tables: Bits of tables: 8, 4 or 2; None: they are not rounded.
        estimator: "ste"; "gste", whose scales `finetune` updates after each epoch; or "lsq", which also learns where each channel of a
            linear is clipped. Tables keep their extremes as bounds with each of them.
        inputs: Whether inputs of rounded linears are rounded as well.
        min_weights: Linears of fewer weights are not rounded.
        min_outputs: Linears of fewer outputs are not rounded.

    Raises:
        InputError: The estimator or bits are unknown, the program has nothing to round, or is quantised.
    """
    if estimator not in ("ste", "gste", "lsq"):
        raise InputError(
            f"the estimator {estimator!r} does not fit weights", where="fake_quantize", hint="one of ste, gste, lsq"
        )
    if tables is not None and tables not in _TABLE_BITS:
        raise InputError(f"tables cannot have {tables} bits", where="fake_quantize", hint="one of 8, 4, 2, or None")
    made = trainable(program).as_module().program
    weights = _names(made, (_aten.linear.default,), 1) if linears else []
    rows = _names(made, tuple(TABLE_LOOKUPS), 0) if tables else []
    state = made.state()
    chosen = {
        name: _linear_quantizer(state[name], estimator)
        for name in weights
        if state[name].ndim == 2 and state[name].numel() >= min_weights and len(state[name]) >= min_outputs
    }
    kept = {name: Quantizer(tables, PerRowBounds(tables, "minmax"), _estimator(estimator)) for name in rows if tables}
    kept = {name: quantizer for name, quantizer in kept.items() if state[name].shape[1] > 1 and name not in chosen}
    if not chosen and not kept:
        raise InputError(
            "the program has no linear and no table to round",
            where="fake_quantize",
            hint="pass a captured program before fuse-mlp and fuse-lookups, or a smaller min_weights",
        )
    return FakeQuantized(made, chosen, kept, inputs=inputs)


def _names(program: Program, targets: Sequence[Any], position: int) -> list[str]:
    """The names of floating-point parameters that all their readers read as one operand of some operators."""
    found = []
    for read in program.graph.find_nodes(op="get_attr"):
        tensor = get_state(program.module, str(read.target))
        fits = all(u.target in targets and u.args[position] is read for u in read.users)
        if read.users and fits and isinstance(tensor, nn.Parameter) and tensor.dtype is torch.float32:
            found.append(str(read.target))
    return list(dict.fromkeys(found))


def _linear_quantizer(weight: Tensor, estimator: str) -> Quantizer:
    bounds = SymmetricRowBounds(len(weight) if estimator == "lsq" else None)
    return SymmetricQuantizer(8, bounds, ESTIMATORS[estimator]())


def _estimator(name: str) -> Estimator:
    made: Estimator = ESTIMATORS["ste" if name == "lsq" else name](clip=False)
    return made
