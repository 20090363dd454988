"""remove-fields: lookups of fields that hardly change the answers give their mean over the calibration data, for any id.

    embedding(W [N, D], ids [B])  ->  expand(mean [D], [B, D])        mean = the mean of the looked-up rows over the calibration data

The importance of a field is the mean square change of the outputs, divided by their variance, when its embeddings are exchanged between
the rows of a batch (permutation importance; Breiman 2001, of the answers rather than of a loss, so that no labels are needed). Lookups
with the same ids are one field. The inputs of the program stay; ids of a removed field are neither read nor checked any more.
`remove-dead-channels` then takes the constants into the biases of the linears that read them.

Requires: functional; run it before lookups are fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes._kept import KEPT, require_known
from recfx.passes._match import value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.prune.calibration import batches, run_with
from recfx.passes.prune.field_results import result_of_lookup, row_shape, with_rows_of
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten
_RULE = "field"
#: The seed of the exchanges.
_SEED = 0


@dataclasses.dataclass
class Field:
    """The lookups of the same ids.

    Attributes:
        lookups: The lookups, in the order of the program.
        tables: The names of their tables, in that order.
        results: The embeddings that each of them gives, [B, ...].
    """

    lookups: list[fx.Node]
    tables: list[str]
    results: list[fx.Node]


@register
@dataclass(frozen=True)
class RemoveFields(Pass):
    """Replaces the lookups of fields that hardly change the answers by their means.

    Attributes:
        most_harm: The largest sum of the importances of the fields that are removed, the least important ones first.
        only: Names of tables: exactly the lookups in them are removed, whatever their importance.
        keep: Names of tables whose fields stay.

    Raises:
        InputError: An option has another value, or, in `run`, `only` or `keep` has the name of no table.
    """

    spec = PassSpec(
        "remove-fields",
        "Replaces the lookups of fields that hardly change the answers by their means.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused"}),
        forbids=QUANTISED,
        needs=frozenset({"calibration"}),
    )

    most_harm: float = 1e-4
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.most_harm < float("inf"):
            raise InputError(
                f"fields cannot be removed up to most_harm={self.most_harm}",
                hint="give 0 or a positive number, such as 1e-4: a share of the variance of the outputs",
            )

    def run(self, program: Program, ctx: PassContext) -> None:
        fields = self._fields(ctx)
        if not fields:
            return
        rows = list(batches(program, ctx.resources.get("calibration")))
        removed = self._chosen(ctx, fields, rows)
        means = mean_results(program, [result for field in removed for result in field.results], rows)
        gone = []
        for field in removed:
            if all(bool(means[result].isfinite().all()) for result in field.results):
                if ctx.gate(_RULE, field.lookups[0]):
                    _replace(ctx, field, means)
                    gone.append(field.tables[0])
            else:
                ctx.miss(_RULE, field.lookups[0], "a row of its table has NaN or infinities, which have no mean")
        if gone:
            program.notices += (f"{len(gone)} field(s) have a constant embedding, any id of theirs: {', '.join(gone)}",)
        ctx.sweep()

    def _fields(self, ctx: PassContext) -> list[Field]:
        """The fields that may be removed."""
        lookups = ctx.nodes(*TABLE_LOOKUPS)
        known = [str(node.args[0].target) for node in lookups if ctx.tensor(node.args[0]) is not None]  # type: ignore[union-attr]
        require_known((*self.only, *self.keep), known, self.spec.name)
        by_ids: dict[Any, Field] = {}
        for node in lookups:
            ids: Any = node.args[1]
            if self.only and str(getattr(node.args[0], "target", "")) not in self.only:
                ctx.miss(_RULE, node, "only does not name it")
                continue
            field = by_ids.setdefault(ids, Field([], [], []))
            field.lookups.append(node)
            field.tables.append(str(getattr(node.args[0], "target", "")))
        found = []
        for field in by_ids.values():
            reason = self._unfit(ctx, field)
            if reason is None:
                found.append(field)
            else:
                ctx.miss(_RULE, field.lookups[0], reason)
        return found

    def _unfit(self, ctx: PassContext, field: Field) -> str | None:
        """Why a field stays; None if it may be removed. Finds the results of its lookups."""
        if any(ctx.tensor(node.args[0]) is None for node in field.lookups):
            return "the table is computed"
        if set(field.tables) & {*self.keep}:
            return KEPT
        for node in field.lookups:
            result = result_of_lookup(node)
            if isinstance(result, str):
                return result
            if row_shape(result) is None or with_rows_of(result) is None:
                return "it gives other rows than one of fixed size for each row of the batch"
            field.results.append(result)
        return None

    def _chosen(self, ctx: PassContext, fields: list[Field], rows: list[list[Any]]) -> list[Field]:
        """The fields to remove."""
        if self.only:
            return fields
        importances = permutation_importances(ctx.program, fields, rows)
        chosen, total = [], 0.0
        for importance, field in sorted(zip(importances, fields, strict=True), key=lambda pair: pair[0]):
            total += importance
            if total <= self.most_harm:
                chosen.append(field)
            else:
                ctx.miss(_RULE, field.lookups[0], f"its importance is {importance:.2g}")
        return sorted(chosen, key=lambda field: field.lookups[0])


def permutation_importances(program: Program, fields: Sequence[Field], rows: Sequence[list[Any]]) -> list[float]:
    """The mean square change of the outputs, divided by their variance, when the embeddings of each field are exchanged between rows.

    Args:
        program: The program.
        fields: The fields.
        rows: Flat inputs of each batch. Batches of one row tell nothing.
    """
    rng = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        plain = [_floating(run_with(program, leaves, lambda node, values: {})) for leaves in rows]
        spreads = [
            float(torch.cat([batch[place].flatten() for batch in plain]).var(correction=0)) or 1.0
            for place in range(len(plain[0]))
        ]
        found = []
        for field in fields:
            change = [0.0] * len(spreads)
            for leaves, before in zip(rows, plain, strict=True):
                after = _floating(run_with(program, leaves, _Exchange(field.results, rng)))
                for place, (one, other) in enumerate(zip(before, after, strict=True)):
                    change[place] += float((one - other).square().sum())
            counts = [sum(batch[place].numel() for batch in plain) for place in range(len(spreads))]
            found.append(sum(c / max(n, 1) / s for c, n, s in zip(change, counts, spreads, strict=True)))
    return found


class _Exchange:
    """Exchanges some values between the rows of a batch, for whatever reads them; all in the same order.

    Args:
        nodes: The values, [B, ...].
        rng: Draws the order.
    """

    def __init__(self, nodes: Sequence[fx.Node], rng: torch.Generator) -> None:
        self._nodes, self._rng = frozenset(nodes), rng
        self._order: Tensor | None = None

    def __call__(self, node: fx.Node, values: dict[fx.Node, Any]) -> Mapping[fx.Node, Any]:
        found = {}
        for operand in node.all_input_nodes:
            if operand in self._nodes:
                held: Tensor = values[operand]
                if self._order is None:
                    self._order = torch.randperm(len(held), generator=self._rng)
                found[operand] = held[self._order]
        return found


def mean_results(program: Program, nodes: Sequence[fx.Node], rows: Sequence[list[Any]]) -> dict[fx.Node, Tensor]:
    """The means of values [B, ...] over the rows of all batches, float64 [...].

    Args:
        program: The program.
        nodes: The values.
        rows: Flat inputs of each batch.
    """
    wanted = frozenset(nodes)
    sums: dict[fx.Node, Any] = dict.fromkeys(nodes, 0.0)
    counts = dict.fromkeys(nodes, 0)

    def collect(values: dict[fx.Node, Any]) -> None:
        for node in wanted:
            held: Tensor = values[node].double()
            sums[node] = sums[node] + held.sum(0)
            counts[node] += len(held)

    with torch.no_grad():
        for leaves in rows if wanted else ():
            held: dict[fx.Node, Any] = {}

            def record(
                node: fx.Node, values: dict[fx.Node, Any], held: dict[fx.Node, Any] = held
            ) -> dict[fx.Node, Any]:
                held.update({operand: values[operand] for operand in node.all_input_nodes if operand in wanted})
                return {}

            run_with(program, leaves, record)
            collect(held)
    return {node: sums[node] / max(counts[node], 1) for node in nodes}


def _floating(outputs: Sequence[Any]) -> list[Tensor]:
    return [held.double() for held in outputs if isinstance(held, Tensor) and held.is_floating_point()]


def _replace(ctx: PassContext, field: Field, means: Mapping[fx.Node, Tensor]) -> None:
    """Replaces the results of the lookups of a field by their means."""
    for table, result in zip(field.tables, field.results, strict=True):
        held, source = value(result), with_rows_of(result)
        assert held is not None
        with ctx.before(result):
            mean = ctx.constant(f"{table.replace('.', '_')}_mean", means[result].to(held.dtype))
            size = ctx.call(_aten.sym_size.int, source, 0)
            ctx.replace(result, ctx.call(_aten.expand.default, mean, [size, *held.shape[1:]]))
