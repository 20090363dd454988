"""binarize-embeddings: scores are computed over one bit a column of the items, by counting bits.

    (query * embedding(T, ids)).sum(-1)    -> code_dot(query, signs of T, ids)
    query @ T.T                            -> code_dot(query, signs of T)

in every spelling of a product with rows of a constant table: sums of products, bmm, matmul, linear, einsum, whatever views lie between. The
query may be anything: a tower, a sequence model's last state, a row of another table. A table whose rows hold two values each, as training
with `recfx.learn` leaves it, is packed as it is. The table itself stays where something else reads it, such as tied input embeddings.

Requires: functional; lookups must not have been fused yet. Exactness: APPROX.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recfx.errors import InputError
from recfx.formats.code_fit import find_codes, minmax_codes, sign_codes, unbiased_sign_codes
from recfx.formats.code_rows import Codes
from recfx.formats.rotations import check_finite, itq_rotation, random_rotation
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops.hamming import QUERY_BITS
from recfx.passes.quantize.score_codes import score_in_codes
from recfx.pipeline import Pass, PassContext, PassSpec, register

METHODS = ("sign-rows", "rotation", "itq", "minmax-rows")


@register
@dataclass(frozen=True)
class BinarizeEmbeddings(Pass):
    """Scores items by one bit a column.

    Attributes:
        method: How a table becomes bits: "sign-rows" (signs times the row's mean magnitude), "rotation" (signs after a random rotation,
            with RaBitQ's unbiased scale), "itq" (signs after a rotation fitted to the table) or "minmax-rows" (a row's extremes).
        query_bits: What queries are rounded to as they come: 8, 4 or 1.
        min_rows: Tables of fewer rows are left alone.
        seed: Of the rotation.
    """

    spec = PassSpec(
        "binarize-embeddings",
        "Scores items by one bit a column.",
        exactness=Exactness.APPROX,
        changes_state=True,
    )

    method: str = "sign-rows"
    query_bits: int = 8
    min_rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self.method, METHODS, self.query_bits)

    def run(self, program: Program, ctx: PassContext) -> None:
        score_in_codes(ctx, self._round, 1, self.query_bits, self.min_rows)

    def _round(self, table: torch.Tensor) -> tuple[Codes, torch.Tensor | None]:
        check_finite(table, self.spec.name)
        found = find_codes(table, 1)
        if found is not None:
            return found, None
        if self.method == "sign-rows":
            return sign_codes(table), None
        if self.method == "minmax-rows":
            return minmax_codes(table, 1), None
        if self.method == "itq":
            rotation = itq_rotation(table, seed=self.seed)
            return sign_codes(table @ rotation), rotation
        rotation = random_rotation(table.shape[1], self.seed)
        return unbiased_sign_codes(table @ rotation), rotation


def check_options(method: str, methods: tuple[str, ...], query_bits: int) -> None:
    """Checks what passes over codes share.

    Raises:
        InputError: Another method, or other bits.
    """
    if method not in methods:
        raise InputError(f"method={method!r} is no way to round a table", hint=f"one of {', '.join(methods)}")
    if query_bits not in QUERY_BITS:
        raise InputError(f"query_bits={query_bits} is no width of a query", hint="one of 8, 4, 1")
