"""quantize-embeddings: scores are computed over a few bits a column of the items, in whole numbers.

    (query * embedding(T, ids)).sum(-1)    -> code_dot(query, codes of T, ids)
    query @ T.T                            -> code_dot(query, codes of T)

The same products as `binarize-embeddings`, at 8, 4 or 2 bits. A table whose rows lie on a grid of so many levels, as training with
`recfx.learn` leaves it, is packed as it is.

Requires: functional; lookups must not have been fused yet. Exactness: APPROX.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recfx.errors import InputError
from recfx.formats.code_fit import best_codes, find_codes, minmax_codes, symmetric_codes
from recfx.formats.code_rows import Codes
from recfx.formats.rotations import check_finite, random_rotation
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes.quantize.binarize_embeddings import check_options
from recfx.passes.quantize.score_codes import score_in_codes
from recfx.pipeline import Pass, PassContext, PassSpec, register

_WITHOUT_ROTATION = {"rows": best_codes, "symmetric-rows": symmetric_codes, "minmax-rows": minmax_codes}
METHODS = (*_WITHOUT_ROTATION, "rotation")


@register
@dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Scores items by a few bits a column.

    Attributes:
        bits: 8, 4 or 2; for one bit there is `binarize-embeddings`.
        method: How a table becomes codes: "symmetric-rows" (levels about zero), "minmax-rows" (levels between a row's extremes), "rows"
            (whichever of these loses less) or "rotation" (the same after a random rotation, for rows of which a few columns are much
            larger than the others).
        query_bits: What queries are rounded to as they come: 8, 4 or 1.
        min_rows: Tables of fewer rows are left alone.
        seed: Of the rotation.
    """

    spec = PassSpec(
        "quantize-embeddings",
        "Scores items by a few bits a column.",
        exactness=Exactness.APPROX,
        changes_state=True,
    )

    bits: int = 8
    method: str = "rows"
    query_bits: int = 8
    min_rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self.method, METHODS, self.query_bits)
        if self.bits not in (8, 4, 2):
            hint = "binarize-embeddings is the pass for one bit" if self.bits == 1 else "one of 8, 4, 2"
            raise InputError(f"bits={self.bits} is no width of codes", hint=hint)

    def run(self, program: Program, ctx: PassContext) -> None:
        score_in_codes(ctx, self._round, self.bits, self.query_bits, self.min_rows)

    def _round(self, table: torch.Tensor) -> tuple[Codes, torch.Tensor | None]:
        check_finite(table, self.spec.name)
        found = find_codes(table, self.bits)
        if found is not None:
            return found, None
        if self.method == "rotation":
            rotation = random_rotation(table.shape[1], self.seed)
            return best_codes(table @ rotation, self.bits), rotation
        return _WITHOUT_ROTATION[self.method](table, self.bits), None
