"""quantize-linears: the weights of MLP chains, cross layers and interaction networks in fewer bits; products are computed in these formats.

    mlp(x, [float32 weights])       -> mlp(x, [int8 weights, a scale per output channel])    (each row of the input is quantised in a call)
    mlp(x, [float32 weights])       -> mlp(x, [bfloat16 weights])
    cin(x0, x, [float32 weights])   -> likewise
    cross(x0, x, [float32 weights]) -> likewise; the vectors of DCN's first form stay as they are

With calibration data, `migrate` multiplies the columns of a layer's input by factors that level their ranges, `activations` gives the input
one scale for all rows, and `correct_bias` puts the mean error of each output channel into the bias.

Requires: functional; linears must have been fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import quantize_per_channel, round_to_half
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._kept import KEPT, require_known
from recfx.passes.mlp.chain import LINEARS
from recfx.passes.quantize.calibrated_layers import Place, Seen, calibration_rows, observe
from recfx.passes.quantize.correct_biases import correct_biases
from recfx.passes.quantize.fold_factors import fold_factors
from recfx.passes.quantize.input_scales import METHODS, Method, input_scale
from recfx.passes.quantize.layer_kinds import KINDS, Kind, Matrix, compact
from recfx.passes.quantize.migrate_scales import column_factors
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class QuantizeLinears(Pass):
    """Stores the weights of MLP chains, cross layers and interaction networks in fewer bits.

    Attributes:
        bits: 16 (bfloat16) or 8 (int8 per output channel).
        min_weights: The fewest weights of a layer to quantise. The first-level cache holds smaller layers at any width.
        min_outputs: The fewest outputs of a layer to quantise. The last layer of a click model has one, whose error is the error of the
            answer.
        clip: Whether to clip the weights of each output channel at the limit of least squared error (int8).
        migrate: Whether to multiply the columns of inputs by factors, where this makes the error on calibration data clearly smaller
            (int8; needs calibration).
        activations: "dynamic" quantises each row of an input by a scale of its own; any other method gives all rows one scale, calibrated
            by the largest magnitude (min-max), a percentile, the least squared error (mse) or the least divergence (entropy) (int8).
        correct_bias: Whether the mean error of each output channel goes into the bias (int8; needs calibration).
        keep: Names of weights that stay as they are.

    Raises:
        InputError: An option has another value, or, in `run`, `keep` has the name of no weight, or the calibration data does not fit.
    """

    spec = PassSpec(
        "quantize-linears",
        "Stores the weights of MLP chains, cross layers and interaction networks in fewer bits.",
        exactness=Exactness.APPROX,
        changes_state=True,
        establishes=frozenset({"linears-quantised"}),
    )

    bits: int = 8
    min_weights: int = 4096
    min_outputs: int = 2
    clip: bool = False
    migrate: bool = False
    activations: Method = "dynamic"
    correct_bias: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (16, 8):
            raise InputError(f"linears cannot have bits={self.bits}", hint="use one of 16, 8")
        if self.activations not in METHODS:
            raise InputError(f"activations cannot be {self.activations!r}", hint=f"use one of {', '.join(METHODS)}")
        if self._calibrated and self.bits != 8:
            raise InputError(
                f"migrate, activations and correct_bias belong to bits=8, got bits={self.bits}",
                hint="leave them out: bfloat16 has a scale for each number",
            )
        if self._calibrated:
            object.__setattr__(self, "spec", dataclasses.replace(type(self).spec, needs=frozenset({"calibration"})))

    @property
    def _calibrated(self) -> bool:
        return self.migrate or self.correct_bias or self.activations != "dynamic"

    def run(self, program: Program, ctx: PassContext) -> None:
        require_known(self.keep, program.state(), self.spec.name)
        for node in ctx.nodes(*LINEARS):
            if any(ctx.tensor(a) is not None for a in node.args):
                ctx.miss("linear", node, "the linear is not part of an MLP chain; run fuse-mlp before")
        run = _Run(ctx)
        nodes = ctx.nodes(*KINDS)
        found = {node: self._matrices(ctx, node, KINDS[node.target]) for node in nodes}
        if self._calibrated and any(matrix.fits for own in found.values() for matrix in own):
            run.rows = calibration_rows(program, ctx.resources.get("calibration"))
            run.seen = observe(program, run.rows, [node for node in nodes if found[node]])
            run.shared = _by_weight(run.seen, found)
        for node in nodes:
            self._layers(run, node, KINDS[node.target], found[node])
        if run.biases:
            correct_biases(ctx, run.rows, run.seen, run.biases)
        if self.migrate:
            for node in nodes:
                fold_factors(ctx, node)
        ctx.sweep()

    def _matrices(self, ctx: PassContext, node: fx.Node, kind: Kind) -> list[_Found]:
        arguments: Any = node.args
        params = arguments[kind.params]
        found: list[_Found] = []
        for position, layer in enumerate(kind.layers(arguments)):
            for fields in kind.matrices(layer):
                read = params[getattr(layer, fields.weight)]
                tensor = ctx.tensor(read)
                reason = KEPT if str(read.target) in self.keep else self._refusal(tensor)
                if reason is not None:
                    ctx.miss("linear", node, f"layer {position + 1}: {reason}")
                found.append(_Found(position, len(found), fields, read, tensor, reason is None and tensor is not None))
        return found

    def _refusal(self, tensor: torch.Tensor | None) -> str | None:
        if tensor is None:
            return "the weight is computed"
        if tensor.dtype is not torch.float32:
            return f"the weight is {tensor.dtype} already"
        if tensor.numel() < self.min_weights:
            return f"only {tensor.numel()} weights"
        if tensor.shape[0] < self.min_outputs:
            return f"only {tensor.shape[0]} output(s)"
        return None

    def _layers(self, run: _Run, node: fx.Node, kind: Kind, found: list[_Found]) -> None:
        arguments: Any = node.args
        params, layers = list(arguments[kind.params]), kind.layers(arguments)
        changed = False
        for matrix in found:
            made = self._stored(run, node, matrix) if matrix.fits else None
            if made is not None:
                layers[matrix.position] = self._replaced(run, node, params, layers[matrix.position], matrix, made)
                changed = True
        if changed:
            node.args = kind.with_layers(arguments, *compact(params, layers, kind.names))

    def _stored(self, run: _Run, node: fx.Node, matrix: _Found) -> _Stored | None:
        """The codes of a matrix, made once for all layers that share it."""
        assert matrix.tensor is not None
        key = id(matrix.tensor)
        if key not in run.done:
            made = self._quantized(run, node, matrix, matrix.tensor)
            if made is None:
                return None
            run.done[key] = made
        return run.done[key]

    def _replaced(
        self, run: _Run, node: fx.Node, params: list[fx.Node], layer: Any, matrix: _Found, made: _Stored
    ) -> Any:
        """A layer with the codes of one of its matrices, and what belongs to them."""
        fields, ctx = matrix.fields, run.ctx
        changes: dict[str, Any] = {
            fields.weight: _place(params, made.codes),
            fields.scale: -1 if made.scale is None else _place(params, made.scale),
        }
        if made.factor is not None:
            changes[fields.factor] = _place(params, made.factor)
        seen = run.seen.get((node, matrix.number))
        if seen is not None and self.activations != "dynamic":
            x = seen.inputs if made.factor is None else seen.inputs * ctx.stored(made.factor).detach()
            changes[fields.input_scale] = input_scale(x, self.activations)
        if seen is not None and self.correct_bias and fields.bias:
            at = getattr(layer, fields.bias)
            held = torch.zeros(len(seen.mean)) if at < 0 else ctx.stored(params[at]).detach().float().clone()
            with ctx.before(node):
                bias = ctx.constant(f"{str(matrix.read.target).replace('.', '_')}_bias_corrected", held)
            run.biases[node, matrix.number] = bias
            changes[fields.bias] = _place(params, bias)
        return dataclasses.replace(layer, **changes)

    def _quantized(self, run: _Run, node: fx.Node, matrix: _Found, tensor: torch.Tensor) -> _Stored | None:
        ctx, factor = run.ctx, None
        try:
            if self.bits == 16:
                codes, scale = round_to_half(tensor, torch.bfloat16), None
            else:
                quantize_per_channel(tensor)
                if self.migrate and (seen := run.shared.get(id(tensor))) is not None:
                    factor = column_factors(seen, tensor, clip=self.clip)
                held = tensor.detach() if factor is None else tensor.detach() / factor
                codes, scale = quantize_per_channel(held, clip=self.clip)
        except InputError as error:
            ctx.miss("linear", node, f"layer {matrix.position + 1}: {error.what}")
            return None
        if not ctx.gate("linear", node):
            return None
        stem = f"{str(matrix.read.target).replace('.', '_')}_{self.bits}bit"
        with ctx.before(matrix.read):
            return _Stored(
                ctx.constant(stem, codes),
                None if scale is None else ctx.constant(f"{stem}_scale", scale),
                None if factor is None else ctx.constant(f"{stem}_factor", factor),
            )


@dataclass(frozen=True)
class _Found:
    """A matrix of an operator: the position of its layer, its number among the operator's matrices, its fields, its read, its tensor, and
    whether it is to be quantised."""

    position: int
    number: int
    fields: Matrix
    read: fx.Node
    tensor: torch.Tensor | None
    fits: bool


@dataclass(frozen=True)
class _Stored:
    """The reads of the codes of a matrix, of their scales and of the factors of its input."""

    codes: fx.Node
    scale: fx.Node | None
    factor: fx.Node | None


@dataclass
class _Run:
    """One run of the pass.

    Attributes:
        ctx: The pass context.
        done: id of a weight, which several names may share -> what was stored for it.
        rows: Flat inputs of some batches of calibration data.
        seen: What the matrices see on them.
        shared: id of a weight whose input may have factors -> rows of the inputs of all layers that share it.
        biases: Matrix -> the read of a bias that is to be corrected.
    """

    ctx: PassContext
    done: dict[int, _Stored] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)
    seen: dict[Place, Seen] = field(default_factory=dict)
    shared: dict[int, torch.Tensor] = field(default_factory=dict)
    biases: dict[Place, fx.Node] = field(default_factory=dict)


def _by_weight(seen: dict[Place, Seen], found: dict[fx.Node, list[_Found]]) -> dict[int, torch.Tensor]:
    """id of a weight -> the inputs of its layers, without weights that an operator without factors reads as well."""
    inputs: dict[int, list[torch.Tensor]] = {}
    without: set[int] = set()
    for node, own in found.items():
        for matrix in own:
            inputs.setdefault(id(matrix.tensor), []).append(seen[node, matrix.number].inputs)
            if not matrix.fields.factor:
                without.add(id(matrix.tensor))
    return {key: torch.cat(parts) for key, parts in inputs.items() if key not in without}


def _place(params: list[fx.Node], node: fx.Node) -> int:
    """The position of a parameter, which is added when it is new."""
    if node not in params:
        params.append(node)
    return params.index(node)
