"""quantize-embeddings: scores are computed from integer codes of the items, a few bits a column. At one bit, the kernel counts bits.

    (query * embedding(T, ids)).sum(-1)    -> code_dot(query, codes of T, ids)
    query @ T.T                            -> code_dot(query, codes of T)

in all spellings of a product with rows of a constant table: sums of products, bmm, matmul, linear, einsum, with any views between. The
query may be any value: a tower, the last state of a sequence model, a row of another table. A table whose rows already have only that many
levels, such as one trained with `recfx.learn`, is packed without loss. The table stays in the state if other operators read it, such as
tied input embeddings. `binarize-embeddings` is this pass at one bit.

Requires: functional; lookups must not have been fused yet. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from recfx.errors import InputError
from recfx.formats.code_fit import (
    best_codes,
    find_codes,
    minmax_codes,
    sign_codes,
    symmetric_codes,
    unbiased_sign_codes,
)
from recfx.formats.code_rows import Codes
from recfx.formats.rotations import check_finite, itq_rotation, random_rotation
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops.hamming import QUERY_BITS
from recfx.passes._properties import CANONICAL
from recfx.passes.quantize.score_codes import score_in_codes
from recfx.pipeline import Pass, PassContext, PassSpec, register

_Rounded = tuple[Codes, torch.Tensor | None]


def _signs(table: torch.Tensor, bits: int, seed: int) -> _Rounded:
    return sign_codes(table), None


def _turned_signs(table: torch.Tensor, bits: int, seed: int) -> _Rounded:
    rotation = random_rotation(table.shape[1], seed)
    return unbiased_sign_codes(table @ rotation), rotation


def _fitted_signs(table: torch.Tensor, bits: int, seed: int) -> _Rounded:
    rotation = itq_rotation(table, seed=seed)
    return sign_codes(table @ rotation), rotation


def _turned(table: torch.Tensor, bits: int, seed: int) -> _Rounded:
    rotation = random_rotation(table.shape[1], seed)
    return best_codes(table @ rotation, bits), rotation


_SEVERAL: Mapping[str, Callable[[torch.Tensor, int, int], _Rounded]] = {
    "rows": lambda table, bits, seed: (best_codes(table, bits), None),
    "symmetric-rows": lambda table, bits, seed: (symmetric_codes(table, bits), None),
    "minmax-rows": lambda table, bits, seed: (minmax_codes(table, bits), None),
    "rotation": _turned,
}

#: Bits -> how a table becomes codes: the name of the method, and a function of table, bits and seed.
METHODS: Mapping[int, Mapping[str, Callable[[torch.Tensor, int, int], _Rounded]]] = {
    8: _SEVERAL,
    4: _SEVERAL,
    2: _SEVERAL,
    1: {
        "rows": _signs,
        "sign-rows": _signs,
        "minmax-rows": _SEVERAL["minmax-rows"],
        "rotation": _turned_signs,
        "itq": _fitted_signs,
    },
}


@register
@dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Computes scores of items from codes of a few bits a column.

    Attributes:
        bits: 8, 4, 2 or 1.
        method: How a table becomes codes. At 8, 4 and 2 bits: "symmetric-rows" (levels about zero), "minmax-rows" (levels between a row's
            extremes), "rows" (of these, the one that loses less) or "rotation" (the same after a random rotation, for rows of which a few
            columns are much larger than the others). At one bit: "sign-rows" or "rows" (signs times the row's mean magnitude),
            "minmax-rows" (a row's extremes), "rotation" (signs after a random rotation, with RaBitQ's unbiased scale) or "itq" (signs
            after a rotation fitted to the table).
        query_bits: The bits to which queries are rounded at each call: 8, 4 or 1.
        min_rows: The fewest rows of a table to quantise.
        seed: The seed of the rotation.

    Raises:
        InputError: An option has another value.
    """

    spec = PassSpec(
        "quantize-embeddings",
        "Computes scores of items from codes of a few bits a column.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        establishes=frozenset({"scores-quantised"}),
    )

    bits: int = 8
    method: str = "rows"
    query_bits: int = 8
    min_rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in METHODS:
            raise InputError(f"codes cannot have bits={self.bits}", hint=f"use one of {', '.join(map(str, METHODS))}")
        if self.method not in METHODS[self.bits]:
            raise InputError(
                f"method={self.method!r} does not exist at {self.bits} bit(s)",
                hint=f"use one of {', '.join(METHODS[self.bits])}",
            )
        if self.query_bits not in QUERY_BITS:
            raise InputError(f"queries cannot have query_bits={self.query_bits}", hint="use one of 8, 4, 1")

    def run(self, program: Program, ctx: PassContext) -> None:
        score_in_codes(ctx, self._round, self.bits, self.query_bits, self.min_rows)

    def _round(self, table: torch.Tensor) -> _Rounded:
        check_finite(table, self.spec.name)
        found = find_codes(table, self.bits)
        if found is not None:
            return found, None
        return METHODS[self.bits][self.method](table, self.bits, self.seed)


@register
@dataclass(frozen=True)
class BinarizeEmbeddings(QuantizeEmbeddings):
    """`quantize-embeddings` at one bit, under its own name and with its own defaults."""

    spec = PassSpec(
        "binarize-embeddings",
        "Computes scores of items from codes of one bit a column.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        establishes=frozenset({"scores-quantised"}),
    )

    bits: int = dataclasses.field(default=1, init=False)
    method: str = "sign-rows"
