"""The spellings of mixtures of low-rank cross experts (DCN-Mix) in models: loops over experts on rows [B, D] or columns [B, D, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, items_of
from recfx.ir.op_sets import JOINS, MATRIX_PRODUCTS
from recfx.passes._match import argument, value
from recfx.passes.cross.mappings import Mapping, beside, is_single, is_vector, mapped, path, plain, same_rows
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
#: Longer sums are not searched at each of their additions: no layer has so many experts.
_MOST_ADDITIONS = 64
_MOST_INNER = 2  # most weights of inner layers joined along a diagonal, as a multiple of those of first and last layers


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """sum_e softmax(G x)_e * x0 * (U_e f(C_e f(V_e x)) + b_e) + x.

    Attributes:
        x0: The factor of the experts, rows or columns.
        x: The input of the experts.
        gates: G, one mapping with weight [E, D].
        experts: For each expert its layers, V first, U last.
    """

    x0: fx.Node
    x: fx.Node
    gates: Mapping
    experts: tuple[tuple[Mapping, ...], ...]


def match_mixture(ctx: PassContext, node: fx.Node) -> Mixture | Miss | None:
    """The mixture that ends in an addition; a Miss if only a detail prevents it, None if it is something else."""
    terms = [] if node.kwargs else _terms(node)
    if not all(same_rows(term, node) for term in terms):
        return None
    refused: Miss | None = None
    for i, term in enumerate(terms):
        x, held = plain(term), value(term)
        if held is None or not is_vector(held) or (len(x.users) == 1 and len(term.users) == 1):
            continue  # the experts and the gates read x
        found = _sum_of(ctx, terms[:i] + terms[i + 1 :], x)
        if isinstance(found, Mixture):
            return found
        refused = refused or found
    return refused


def _terms(node: fx.Node) -> list[fx.Node]:
    """The terms of a tree of additions; none of a tree with too many. A sum with other users is one term; so is x."""
    terms: list[fx.Node] = []
    waiting, additions = [(node.args[1], node), (node.args[0], node)], 1
    while waiting:
        part, user = waiting.pop()
        if not isinstance(part, fx.Node):
            terms += [] if part == 0 else [user]  # sum() begins with 0; a sum with another number is not a mixture
        elif part.target is _aten.add.Tensor and len(part.users) == 1 and not part.kwargs:
            waiting += [(part.args[1], part), (part.args[0], part)]
            additions += 1
        else:
            terms.append(part)
        if additions > _MOST_ADDITIONS:
            return []
    return terms


def _sum_of(ctx: PassContext, terms: Sequence[fx.Node], x: fx.Node) -> Mixture | Miss | None:
    """The mixture in some terms: one sum over a stack of experts, or one term for each expert times its gate."""
    pairs = _gated(terms[0]) if len(terms) == 1 else _gated_terms(terms)
    if pairs is None:
        return None
    outputs, scores = pairs
    if len(outputs) < 2:
        return None
    gates = _gates(ctx, scores, x, len(outputs))
    if not isinstance(gates, Mapping):
        return gates
    found: list[tuple[fx.Node, tuple[Mapping, ...]]] = []
    for output in outputs:
        expert = _expert(ctx, output, x)
        if expert is None:
            return Miss("an expert is not a cross layer of low rank", output)
        if found and expert[0] is not found[0][0]:
            return Miss("the experts multiply with different tensors", output)
        found.append(expert)
    x0, experts = found[0][0], [mappings for _, mappings in found]
    alike = {tuple((m.weight.shape, m.weight.dtype, m.act) for m in expert) for expert in experts}
    if len(alike) != 1:
        return Miss("the experts differ in size or activation", outputs[0])
    inner = sum(len(outputs) ** 2 * m.weight.numel() for m in experts[0][1:-1])
    if inner > _MOST_INNER * sum(m.weight.numel() for expert in experts for m in (expert[0], expert[-1])):
        return Miss("the experts' inner layers together are wider than their input and output", outputs[0])
    return Mixture(x0, x, gates, tuple(experts))


def _gated(node: Any) -> tuple[list[fx.Node], fx.Node] | None:
    """(experts, gates [B, E]) of a stack of experts times the gates, summed over the experts."""
    node = plain(node)
    if node.target is _aten.squeeze.dim and node.args[1] in (1, -2):
        node = node.args[0]
    if node.target in MATRIX_PRODUCTS:
        for stack, scores, dim in ((node.args[0], node.args[1], 2), (node.args[1], node.args[0], 1)):
            parts = _stacked(stack, dim)
            if parts is not None:
                return parts, scores
        return None
    if node.target is not _aten.sum.dim_IntList or argument(node, 2, "keepdim", False) or len(node.args[1]) != 1:
        return None
    product: Any = node.args[0]
    if product.target is not _aten.mul.Tensor or node.kwargs.get("dtype") is not None:
        return None
    dim = node.args[1][0] % 3
    for stack, scores in (product.args[:2], product.args[1::-1]):
        parts = _stacked(stack, dim)
        held = value(scores)
        if parts is not None and held is not None and held.ndim == 3 and is_single(held.shape[3 - dim]):
            return parts, scores
    return None


def _stacked(node: Any, dim: int) -> list[fx.Node] | None:
    """The parts of a stack of rows along dimension 1 or 2."""
    if not isinstance(node, fx.Node) or node.target is not _aten.stack.default or dim not in (1, 2):
        return None
    parts: list[Any] = items_of(node, 0)
    held = value(parts[0])
    given = argument(node, 1, "dim", 0)
    return parts if held is not None and held.ndim == 2 and given % 3 == dim else None


def _gated_terms(terms: Sequence[fx.Node]) -> tuple[list[fx.Node], fx.Node] | None:
    """(experts, gates [B, E]) of terms that are an expert times its column of the gates."""
    outputs: list[fx.Node] = []
    scores: Any = None
    for number, term in enumerate(terms):
        if term.target is not _aten.mul.Tensor:
            return None
        for expert, gate in (term.args[:2], term.args[1::-1]):
            column = _column(gate)
            if column is None or not isinstance(expert, fx.Node):
                continue
            if column[1] == number and (scores is None or column[0] is scores):
                scores = column[0]
                outputs.append(expert)
                break
        else:
            return None
    return outputs, scores


def _column(node: Any) -> tuple[fx.Node, int] | None:
    """(scores, e) of scores[:, e:e + 1], written as a slice or as a selection."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is _aten.slice.Tensor and node.args[1] in (1, -1) and len(node.args) == 4:
        start, end = node.args[2:4]
        held = value(node)
        if held is None or held.ndim != 2 or not isinstance(start, int) or end != start + 1:
            return None
        return argument_of(node, 0, fx.Node), start
    source: Any = node.args[0] if node.target is _aten.unsqueeze.default and node.args[1] in (1, -1) else None
    if source is None or source.target is not _aten.select.int or source.args[1] not in (1, -1):
        return None
    held = value(source.args[0])
    return (source.args[0], source.args[2]) if held is not None and held.ndim == 2 and source.args[2] >= 0 else None


def _gates(ctx: PassContext, node: Any, x: fx.Node, experts: int) -> Mapping | Miss | None:
    """The softmax over the experts of one linear of x, or of a linear for each expert."""
    softmax: Any = _without_ones(node)
    if softmax.target is not _aten.softmax.int:
        return Miss("its gates are not a softmax", softmax)
    held = value(softmax)
    if held is None or argument(softmax, 2, "dtype") is not None:
        return None
    dim = softmax.args[1] % held.ndim
    if (
        dim == 0
        or held.shape[dim] != experts
        or not all(is_single(s) for i, s in enumerate(held.shape) if i not in (0, dim))
    ):
        return Miss("its gates' softmax does not run over the experts", softmax)
    logits: Any = _without_ones(softmax.args[0])
    several = logits.target in JOINS
    read = [mapped(ctx, _without_ones(part)) for part in (logits.args[0] if several else [logits])]
    rows = [m for source, m in (r for r in read if r is not None) if source is x]
    if len(rows) != len(read) or sum(len(m.weight) for m in rows) != experts or any(m.act for m in rows):
        return Miss("its gates are not linears of the experts' input", logits)
    return beside(rows)


def _without_ones(node: Any) -> Any:
    """The value behind the added or dropped dimensions of size 1."""
    while isinstance(node, fx.Node) and node.target in (_aten.unsqueeze.default, _aten.squeeze.dim):
        held, source = value(node), value(node.args[0])
        if held is None or source is None or (node.target is _aten.squeeze.dim and held.ndim == source.ndim):
            return node
        node = node.args[0]
    return node


def _expert(ctx: PassContext, node: fx.Node, x: fx.Node) -> tuple[fx.Node, tuple[Mapping, ...]] | None:
    """(x0, layers) of x0 * (U f(... V x) + b)."""
    node = plain(node)
    if node.target is not _aten.mul.Tensor:
        return None
    for left, right in (node.args[:2], node.args[1::-1]):
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or not same_rows(left, right):
            continue
        layers = tuple(path(ctx, right, x))[::-1]
        if len(layers) > 1 and layers[-1].act is None and len(layers[-1].weight) == layers[0].weight.shape[1]:
            return plain(left), layers
    return None
