"""The operators behind the scores of a target attention: how far each sequence of them is followed, and what is read from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from sketch import Sketch

from recfx.ops.attention import FILL, ZERO
from recfx.passes.attention.scores import Scores, follow_scores

aten = torch.ops.aten

#: 5 keys of 4 numbers; scores as a column ("s"), a row ("row") and without a dimension of size 1 ("flat").
INPUTS: dict[str, Any] = {
    **{
        "k": ("batch", 5, 4),
        "shared": ("batch", 5, 4),
        "s": ("batch", 5, 1),
        "row": ("batch", 1, 5),
        "flat": ("batch", 5),
    },
    **{
        name: (shape, torch.bool)
        for name, shape in (("m", ("batch", 5, 1)), ("m_row", ("batch", 1, 5)), ("m_flat", ("batch", 5)))
    },
    **{"one": ((1, 5), torch.bool), "one_key": (("batch", 1), torch.bool), "number": (("batch", 5), torch.int64)},
    **{
        "wide": ("batch", 5, 2),
        "other": ("batch", 6),
        "few": ((3, 5)),
        "deep": ("batch", 5, 1, 1),
        "longer": ("batch", 1, 6),
    },
    **{"other5": ("batch", 5), "elsewhere": ("batch", 5, 4), "square": ("batch", 5, 5)},
}
STATE = {
    "far": torch.tensor(-9.0), "one_far": torch.full((1, 1), -8.0), "two": torch.full((5,), -9.0),
    "whole": torch.tensor(3), "factor": torch.tensor(0.5),
}  # fmt: skip


def mul(*given: Any) -> tuple[Any, ...]:
    return (aten.mul.Tensor, *given)


def softmax(scores: Any, dim: int, *given: Any) -> tuple[Any, ...]:
    return (aten.softmax.int, scores, dim, *given)


def squeezed(given: Any, dim: int) -> tuple[Any, ...]:
    return (aten.squeeze.dim, given, dim)


def filled(mask: Any, scores: Any, other: Any) -> tuple[Any, ...]:
    return (aten.where.self, mask, scores, other)


def hidden(scores: Any, mask: Any, fill: float = -7.0) -> tuple[Any, ...]:
    return (aten.masked_fill.Scalar, scores, mask, fill)


def summed(given: Any, dims: list[int], *rest: Any) -> tuple[Any, ...]:
    return (aten.sum.dim_IntList, given, dims, *rest)


def product(weights: Any, keys: Any) -> tuple[Any, ...]:
    return (aten.bmm.default, weights, keys)


def negated(mask: Any) -> tuple[Any, ...]:
    return (aten.logical_not.default, mask)


def zeros(like: Any) -> tuple[Any, ...]:
    return (aten.zeros_like.default, like)


def full(like: Any, number: Any) -> tuple[Any, ...]:
    return (aten.full_like.default, like, number)


def einsum(equation: str, *operands: Any) -> tuple[Any, ...]:
    return (aten.einsum.default, equation, list(operands))


FLOATS = (aten.to.dtype, "m_flat", torch.float32)
LIKE = full("flat", -2.0)

#: Name -> the scores, all operators behind them, the last one that is followed (None: no match), and the fields that differ
#: from their defaults.
FOLLOWED: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "a column": ("s", "s", "s", {}),
    "a row": ("row", "row", "row", {}),
    "no column": ("flat", "flat", "flat", {}),
    "two columns": ("wide", "wide", None, {}),
    "scores of other keys": ("other", "other", None, {}),
    "a row of other keys": ("longer", "longer", None, {}),
    "scores of another batch": ("few", "few", None, {}),
    "four dimensions": ("deep", "deep", None, {}),
    "four dimensions, squeezed": ("deep", squeezed("deep", 3), squeezed("deep", 3), {}),
    "four dimensions, scaled first": ("deep", squeezed(mul("deep", 0.5), 3), None, {}),
    "four dimensions, scaled afterwards": ("deep", mul(squeezed("deep", 3), 0.5), mul(squeezed("deep", 3), 0.5), {"scale": 0.5}),
    "squeezed": ("s", squeezed("s", -1), squeezed("s", -1), {}),
    "transposed": ("s", (aten.permute.default, "s", [0, 2, 1]), (aten.permute.default, "s", [0, 2, 1]), {}),
    "reshaped to other sizes": ("s", (aten.reshape.default, "s", [-1]), "s", {}),
    "scaled": ("flat", mul("flat", 0.5), mul("flat", 0.5), {"scale": 0.5}),
    "scaled by an integer": ("flat", mul("flat", 3), mul("flat", 3), {"scale": 3.0}),
    "divided": ("flat", (aten.div.Tensor, "flat", 4.0), (aten.div.Tensor, "flat", 4.0), {"scale": 0.25}),
    "scaled twice": ("flat", mul((aten.div.Tensor, "flat", 4.0), 3), mul((aten.div.Tensor, "flat", 4.0), 3), {"scale": 0.75}),
    "scaled by zero": ("flat", mul("flat", 0.0), "flat", {}),
    "scaled by a negative number": ("flat", mul("flat", -1.0), "flat", {}),
    "scaled by a constant tensor": ("flat", mul("flat", "factor"), "flat", {}),
    "scaled behind the softmax": ("flat", mul(softmax("flat", 1), 2.0), softmax("flat", 1), {"softmax": True}),
    "scaled behind a mask": (
        "flat", mul(hidden("flat", "m_flat"), 2.0), hidden("flat", "m_flat"),
        {"masking": FILL, "fill": -7.0, "mask": "m_flat", "inverted": True},
    ),
    "another function": ("flat", (aten.sigmoid.default, "flat"), "flat", {}),
    "softmax": ("flat", softmax("flat", 1), softmax("flat", 1), {"softmax": True}),
    "softmax of a column": ("s", softmax("s", 1), softmax("s", 1), {"softmax": True}),
    "softmax of a row": ("row", softmax("row", -1), softmax("row", -1), {"softmax": True}),
    "softmax over the batch": ("flat", softmax("flat", 0), "flat", {}),
    "softmax over the column": ("s", softmax("s", 2), "s", {}),
    "softmax over the dimension of a row": ("row", softmax("row", 1), "row", {}),
    "softmax in float64": ("flat", softmax("flat", 1, torch.float64), "flat", {}),
    "softmax twice": ("flat", softmax(softmax("flat", 1), 1), softmax("flat", 1), {"softmax": True}),
    "softmax of zeroed scores": ("flat", softmax(mul("flat", FLOATS), 1), mul("flat", FLOATS), {"masking": ZERO, "mask": "m_flat"}),
    "log softmax": ("flat", (aten.log_softmax.int, "flat", 1), "flat", {}),
    "masked_fill": (
        "flat", hidden("flat", "m_flat"), hidden("flat", "m_flat"),
        {"masking": FILL, "fill": -7.0, "mask": "m_flat", "inverted": True},
    ),
    "masked_fill by a negation": (
        "flat", hidden("flat", negated("m_flat")), hidden("flat", negated("m_flat")),
        {"masking": FILL, "fill": -7.0, "mask": "m_flat"},
    ),
    "masked_fill of a column": (
        "s", hidden("s", "m"), hidden("s", "m"), {"masking": FILL, "fill": -7.0, "mask": "m", "inverted": True}
    ),
    "masked_fill by a widened mask": (
        "s", hidden("s", (aten.unsqueeze.default, "m_flat", 2)), hidden("s", (aten.unsqueeze.default, "m_flat", 2)),
        {"masking": FILL, "fill": -7.0, "mask": "m_flat", "inverted": True},
    ),
    "masked_fill by a mask of one row": (
        "flat", hidden("flat", "one"), hidden("flat", "one"), {"masking": FILL, "fill": -7.0, "mask": "one", "inverted": True}
    ),
    "masked_fill by a mask of one key": ("flat", hidden("flat", "one_key"), "flat", {}),
    "masked_fill of the softmax": ("flat", hidden(softmax("flat", 1), "m_flat"), softmax("flat", 1), {"softmax": True}),
    "masked_fill twice": (
        "flat", hidden(hidden("flat", "m_flat"), "m_flat"), hidden("flat", "m_flat"),
        {"masking": FILL, "fill": -7.0, "mask": "m_flat", "inverted": True},
    ),
    "where": ("flat", filled("m_flat", "flat", "far"), filled("m_flat", "flat", "far"), {"masking": FILL, "fill": -9.0, "mask": "m_flat"}),
    "where by a negation": (
        "flat", filled(negated("m_flat"), "flat", "one_far"), filled(negated("m_flat"), "flat", "one_far"),
        {"masking": FILL, "fill": -8.0, "mask": "m_flat", "inverted": True},
    ),
    "where with the scores last": ("flat", filled("m_flat", "far", "flat"), "flat", {}),
    "where with several numbers": ("flat", filled("m_flat", "flat", "two"), "flat", {}),
    "where with an input": ("flat", filled("m_flat", "flat", "other5"), "flat", {}),
    "where with an integer": ("flat", filled("m_flat", "flat", "whole"), "flat", {}),
    "where with zeros": (
        "flat", filled("m_flat", "flat", zeros("flat")), filled("m_flat", "flat", zeros("flat")), {"masking": FILL, "mask": "m_flat"}
    ),
    "where with ones": (
        "flat", filled("m_flat", "flat", (aten.ones_like.default, "flat")), filled("m_flat", "flat", (aten.ones_like.default, "flat")),
        {"masking": FILL, "fill": 1.0, "mask": "m_flat"},
    ),
    "where with one number": (
        "flat", filled("m_flat", "flat", LIKE), filled("m_flat", "flat", LIKE), {"masking": FILL, "fill": -2.0, "mask": "m_flat"}
    ),
    "where with a product of a number": (
        "flat", filled("m_flat", "flat", mul(LIKE, 3.0)), filled("m_flat", "flat", mul(LIKE, 3.0)),
        {"masking": FILL, "fill": -6.0, "mask": "m_flat"},
    ),
    "where with a product of inputs": ("flat", filled("m_flat", "flat", mul("other5", 3.0)), "flat", {}),
    "where with full": (
        "flat", filled("m_flat", "flat", (aten.full.default, [1, 5], -3.0)), filled("m_flat", "flat", (aten.full.default, [1, 5], -3.0)),
        {"masking": FILL, "fill": -3.0, "mask": "m_flat"},
    ),
    "where with a scalar tensor": (
        "flat", filled("m_flat", "flat", (aten.scalar_tensor.default, -4.0)), filled("m_flat", "flat", (aten.scalar_tensor.default, -4.0)),
        {"masking": FILL, "fill": -4.0, "mask": "m_flat"},
    ),
    "zeroed": ("flat", mul("flat", "m_flat"), mul("flat", "m_flat"), {"masking": ZERO, "mask": "m_flat"}),
    "zeroed by floats": ("flat", mul(FLOATS, "flat"), mul(FLOATS, "flat"), {"masking": ZERO, "mask": "m_flat"}),
    "zeroed by a negation": (
        "flat", mul("flat", negated("m_flat")), mul("flat", negated("m_flat")), {"masking": ZERO, "mask": "m_flat", "inverted": True}
    ),
    "zeroed by integers": ("flat", mul("flat", "number"), "flat", {}),
    "zeroed twice": ("flat", mul(mul("flat", "m_flat"), "m_flat"), mul("flat", "m_flat"), {"masking": ZERO, "mask": "m_flat"}),
    "zeroed by a mask of another rank": ("flat", mul("flat", "m_row"), "flat", {}),
    "zeroed behind the softmax": (
        "flat", mul(softmax("flat", 1), "m_flat"), mul(softmax("flat", 1), "m_flat"), {"softmax": True, "masking": ZERO, "mask": "m_flat"}
    ),
    "filled and zeroed": (
        "flat", mul(softmax(filled("m_flat", "flat", "far"), 1), FLOATS), mul(softmax(filled("m_flat", "flat", "far"), 1), FLOATS),
        {"softmax": True, "masking": FILL + ZERO, "fill": -9.0, "mask": "m_flat"},
    ),
    "filled and zeroed by opposite masks": (
        "flat", mul(softmax(hidden("flat", "m_flat"), 1), FLOATS), softmax(hidden("flat", "m_flat"), 1),
        {"softmax": True, "masking": FILL, "fill": -7.0, "mask": "m_flat", "inverted": True},
    ),
    "filled and zeroed by other masks": (
        "flat", mul(softmax(filled("m_flat", "flat", "far"), 1), "one"), softmax(filled("m_flat", "flat", "far"), 1),
        {"softmax": True, "masking": FILL, "fill": -9.0, "mask": "m_flat"},
    ),
    "filled after zeroed": (
        "flat", filled("m_flat", mul("flat", "m_flat"), "far"), mul("flat", "m_flat"), {"masking": ZERO, "mask": "m_flat"}
    ),
    "pooled by a product": ("row", product("row", "k"), product("row", "k"), {"pooled": True}),
    "pooled by matmul": ("row", (aten.matmul.default, "row", "shared"), (aten.matmul.default, "row", "shared"), {"pooled": True}),
    "pooled and squeezed": ("row", squeezed(product("row", "k"), 1), squeezed(product("row", "k"), 1), {"pooled": True}),
    "pooled and squeezed from the end": ("row", squeezed(product("row", "k"), -2), squeezed(product("row", "k"), -2), {"pooled": True}),
    "pooled and squeezed elsewhere": ("row", squeezed(product("row", "k"), 2), product("row", "k"), {"pooled": True}),
    "pooled by other keys": ("row", product("row", "elsewhere"), "row", {}),
    "a column by a product": ("s", product("s", "row"), "s", {}),
    "pooled after the softmax": (
        "row", product(softmax("row", 2), "k"), product(softmax("row", 2), "k"), {"softmax": True, "pooled": True}
    ),
    "pooled by a sum": ("s", summed(mul("s", "k"), [1]), summed(mul("s", "k"), [1]), {"pooled": True}),
    "pooled by a sum, kept": ("s", summed(mul("k", "s"), [-2], True), summed(mul("k", "s"), [-2], True), {"pooled": True}),
    "pooled by a sum, squeezed": (
        "s", squeezed(summed(mul("k", "s"), [1], True), 1), squeezed(summed(mul("k", "s"), [1], True), 1), {"pooled": True}
    ),
    "pooled by a sum of other keys": ("s", summed(mul("s", "elsewhere"), [1]), "s", {}),
    "pooled by a sum over the numbers": ("s", summed(mul("s", "k"), [2]), "s", {}),
    "pooled by a sum over both": ("s", summed(mul("s", "k"), [1, 2]), "s", {}),
    "pooled by a mean": ("s", (aten.mean.dim, mul("s", "k"), [1]), "s", {}),
    "pooled by a sum in float64": ("s", summed(mul("s", "k"), [1], {"dtype": torch.float64}), "s", {}),
    "a row by a sum": ("row", summed(mul("row", "square"), [1]), "row", {}),
    "pooled by einsum": ("flat", einsum("bl,bld->bd", "flat", "k"), einsum("bl,bld->bd", "flat", "k"), {"pooled": True}),
    "pooled by einsum with spaces": (
        "flat", einsum("x y, x y z -> x z", "flat", "k"), einsum("x y, x y z -> x z", "flat", "k"), {"pooled": True}
    ),
    "pooled by einsum of other keys": ("flat", einsum("bl,bld->bd", "flat", "elsewhere"), "flat", {}),
    "einsum with the keys first": ("flat", einsum("bld,bl->bd", "k", "flat"), "flat", {}),
    "einsum of the numbers": ("flat", einsum("bl,bld->bl", "flat", "k"), "flat", {}),
    "einsum of all rows": ("flat", einsum("al,bld->bd", "flat", "k"), "flat", {}),
    "einsum of all keys": ("flat", einsum("ba,bld->bd", "flat", "k"), "flat", {}),
    "einsum turned": ("flat", einsum("bl,bld->db", "flat", "k"), "flat", {}),
    "einsum of three": ("flat", einsum("bl,bld,bl->bd", "flat", "k", "other5"), "flat", {}),
    "einsum of two masks": ("flat", einsum("bl,bl->b", "flat", "other5"), "flat", {}),
    "einsum of a column": ("s", einsum("blc,bld->bd", "s", "k"), "s", {}),
}  # fmt: skip


def follow(scores: Any, whole: Any, *unread: Any) -> tuple[Sketch, Scores | None]:
    text = repr((scores, whole, unread))
    sketch = Sketch(
        {name: given for name, given in INPUTS.items() if name in ("k", "shared") or repr(name) in text}, **STATE
    )
    ctx = sketch.context(whole, *unread)
    return sketch, follow_scores(ctx, sketch.node(scores), sketch.node("k"), sketch.node("shared"))


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_operators_behind_scores(name: str) -> None:
    scores, whole, last, fields = FOLLOWED[name]
    sketch, found = follow(scores, whole)
    if last is None:
        assert found is None
        return
    wanted = dataclasses.replace(Scores(sketch.node(last)), **fields)
    if isinstance(wanted.mask, str):
        wanted.mask = sketch.node(wanted.mask)
    assert found == wanted


NOTHING = (aten.zeros_like.default, "flat", {"dtype": torch.bool})
LAST = filled("m_flat", "flat", mul(zeros("flat"), 2.0))

#: Name -> further readers of the scores "flat", and whether the `where` behind them is still followed.
READERS: dict[str, tuple[Any, list[Any], bool]] = {
    "their size for the fill": (filled("m_flat", "flat", zeros("flat")), [], True),
    "their size for a product of the fill": (LAST, [], True),
    "their size for another sum": (filled("m_flat", "flat", (aten.add.Tensor, zeros("flat"), 2.0)), [], False),
    "their size for something else": (filled("m_flat", "flat", "far"), [(aten.exp.default, zeros("flat"))], False),
    "their size for two": (filled("m_flat", "flat", zeros("flat")), [(aten.exp.default, zeros("flat"))], False),
    "their size for a mask": (mul("flat", NOTHING), [], True),
    "their size for the negation of a mask": (mul("flat", negated(NOTHING)), [], False),
    "their values": (filled("m_flat", "flat", "far"), [(aten.exp.default, "flat")], False),
}


@pytest.mark.parametrize("name", READERS)
def test_further_readers_of_scores(name: str) -> None:
    whole, others, followed = READERS[name]
    sketch, found = follow("flat", whole, *others)
    assert found is not None
    assert found.output is sketch.node(whole if followed else "flat")
