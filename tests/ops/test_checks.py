"""The checks of the dialect's operands: each boundary from both sides, and each refusal with its reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from recfx.formats.rowwise import row_bytes
from recfx.ir.propagate import fake_inputs
from recfx.ops import checks, interaction
from recfx.ops.descriptions import MEAN, NONE, CrossLayer, Feature, Layer

META = torch.device("meta")
LONG = torch.int64


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def ids(*shape: int, dtype: torch.dtype = LONG) -> torch.Tensor:
    return tensor(*shape, dtype=dtype)


def varying(*shape: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return fake_inputs([(shape, dtype, torch.device("cpu"))])[0]


def lookup(
    *features: Feature,
    tables: tuple[torch.Tensor, ...] = (tensor(9, 4),),
    held: tuple[torch.Tensor, ...] = (ids(3, 5),),
    offsets: tuple[torch.Tensor, ...] = (),
    weights: tuple[torch.Tensor, ...] = (),
    dense: tuple[torch.Tensor, ...] = (),
    copies: tuple[int, ...] = (),
    width: int = 4,
) -> None:
    checks.check_lookup(tables, held, offsets, weights, dense, features, copies, width)


ONE = Feature(0, 0, 4, 0)
BAG = Feature(0, 0, 4, 0, length=-1, offsets=0)
WIDE = 1 << 31


def changed(feature: Feature = ONE, **fields: Any) -> Feature:
    return dataclasses.replace(feature, **fields)


def quantised(bits: int, more: int = 0) -> torch.Tensor:
    return tensor(9, row_bytes(bits, 4) + more, dtype=torch.uint8)


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

ACCEPTED: dict[str, tuple[tuple[Feature, ...], dict[str, Any]]] = {
    "one column": ((ONE,), {}),
    "int32": ((ONE,), {"held": (ids(3, dtype=torch.int32),)}),
    "a vector of ids": ((ONE,), {"held": (ids(3),)}),
    "the last column": ((changed(column=4),), {}),
    "all columns": ((changed(length=5, pooling=MEAN),), {}),
    "ids of three dimensions": ((changed(column=5),), {"held": (ids(3, 2, 3),)}),
    "side by side": ((changed(length=5, pooling=NONE),), {"width": 20}),
    "a bag without ids": ((changed(length=0),), {}),
    "padding": ((changed(padding=0),), {}),
    "the largest base": ((changed(base=1 << 40),), {}),
    "the smallest base": ((changed(base=-(1 << 40)),), {}),
    "the widest table": (
        (changed(dim=WIDE - 1),), {"tables": (tensor(1, WIDE - 1),), "width": WIDE - 1}
    ),
    "one number": ((changed(dim=1),), {"tables": (tensor(9, 1),), "width": 1}),
    "three copies": (
        (changed(output=6),), {"dense": (tensor(3, 2),), "copies": (0, 4, 0, 0, 0, 2), "width": 10}
    ),
    "two features, the second in front": ((changed(output=4), ONE), {"width": 8}),
    "a copy behind": ((ONE,), {"dense": (tensor(3, 2),), "copies": (0, 4), "width": 6}),
    "copies in front": (
        (changed(output=5),),
        {"dense": (tensor(3, 2), tensor(3, 3)), "copies": (1, 2, 0, 0), "width": 9},
    ),
    "weights": ((changed(weights=0),), {"weights": (tensor(3, 5),)}),
    "a jagged bag": ((BAG,), {"held": (ids(7),), "offsets": (ids(4),)}),
    "int32 offsets": ((BAG,), {"held": (ids(7),), "offsets": (ids(4, dtype=torch.int32),)}),
    "the last segment": ((changed(BAG, segment=2, segments=3),), {"held": (ids(7),), "offsets": (ids(4),)}),
    "weights of a jagged bag": (
        (changed(BAG, weights=0),), {"held": (ids(7),), "offsets": (ids(4),), "weights": (tensor(7),)}
    ),
    "a jagged bag beside rows": (
        (BAG, changed(output=4, ids=1)), {"held": (ids(7), ids(3, 5)), "offsets": (ids(4),), "width": 8}
    ),
    "a varying batch": ((ONE,), {"held": (varying("batch", 5, dtype=LONG),)}),
    **{f"a table of {t}": ((ONE,), {"tables": (tensor(9, 4, dtype=t),)}) for t in FLOATS},
    **{f"a table of {b} bits": ((changed(bits=b),), {"tables": (quantised(b),)}) for b in (8, 4, 2, 1)},
    "rows with room": ((changed(bits=4),), {"tables": (quantised(4, more=3),)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_lookups_that_fit(name: str) -> None:
    features, more = ACCEPTED[name]
    lookup(*features, **more)


REFUSED: dict[str, tuple[tuple[Feature, ...], dict[str, Any], str]] = {
    "no features": ((), {"width": 4}, "expected features and columns, got 0 and 4"),
    "no columns": ((ONE,), {"width": 0}, "got 1 and 0"),
    "too many columns": ((ONE,), {"width": WIDE}, f"got 1 and {WIDE}"),
    "no table": ((changed(table=1),), {}, "no table at position 1 of a list of 1"),
    "a negative table": ((changed(table=-1),), {}, "no table at position -1"),
    "no ids": ((changed(ids=1),), {}, "no ids at position 1"),
    "no weights": ((changed(weights=0),), {}, "no weights at position 0 of a list of 0"),
    "negative weights": ((changed(weights=-2),), {}, "no weights at position -2"),
    "float ids": ((ONE,), {"held": (tensor(3, 5),)}, "ids must be int32 or int64"),
    "int16 ids": ((ONE,), {"held": (ids(3, 5, dtype=torch.int16),)}, "ids must be int32 or int64"),
    "ids without a batch": ((ONE,), {"held": (ids(),)}, "ids must have a batch dimension"),
    "pooling 3": ((changed(pooling=3),), {}, "pooling must be 0, 1 or 2, got 3"),
    "pooling -1": ((changed(pooling=-1),), {}, "pooling must be 0, 1 or 2, got -1"),
    "padding -2": ((changed(padding=-2),), {}, "padding -2 or base 0 is out of range"),
    "a large base": ((changed(base=(1 << 40) + 1),), {}, "base 1099511627777 is out of range"),
    "a small base": ((changed(base=-(1 << 40) - 1),), {}, "base -1099511627777 is out of range"),
    "a table of one dimension": ((ONE,), {"tables": (tensor(9),)}, "2 dimensions, got 1"),
    "a table of three dimensions": ((ONE,), {"tables": (tensor(9, 4, 1),)}, "2 dimensions, got 3"),
    "no width": ((changed(dim=0),), {"tables": (tensor(9, 0),)}, "dim 0 or output 0 is out of range"),
    "a table too wide": (
        (changed(dim=WIDE),), {"tables": (tensor(1, WIDE),)}, f"dim {WIDE} or output 0 is out of range"
    ),
    "a negative output": ((changed(output=-1),), {}, "dim 4 or output -1 is out of range"),
    "another width": ((changed(dim=3),), {"width": 3}, "expected a floating-point table of 3 columns"),
    "a table of integers": ((ONE,), {"tables": (ids(9, 4),)}, r"floating-point table of 4 columns, got torch.int64 \[9, 4\]"),
    "three bits": ((changed(bits=3),), {"tables": (quantised(4),)}, "expected .* or 32 bits, got 3"),
    "bits of a float table": ((changed(bits=4),), {}, "a table of 4 bits must be uint8, got torch.float32"),
    "short rows": ((changed(bits=4),), {"tables": (quantised(4, more=-1),)}, f"rows of at least {row_bytes(4, 4)} bytes"),
    "rows that vary": (
        (changed(bits=4),), {"tables": (varying(9, "n", dtype=torch.uint8),)}, "dimension 1 must be fixed, but it varies"
    ),
    "a column too many": ((changed(column=5),), {}, "1 id columns from column 5 on are not within 5"),
    "a bag too long": ((changed(length=6),), {}, "6 id columns from column 0 on are not within 5"),
    "a bag beyond the columns": ((changed(length=3, column=3),), {}, "3 id columns from column 3 on are not within 5"),
    "a negative column": ((changed(column=-1),), {}, "from column -1 on"),
    "a length of -2": ((changed(length=-2),), {}, "-2 id columns"),
    "a column of three dimensions": ((changed(column=6),), {"held": (ids(3, 2, 3),)}, "not within 6"),
    "id columns that vary": ((ONE,), {"held": (varying(3, "n", dtype=LONG),)}, "dimension 1 must be fixed"),
    "other rows": (
        (ONE, changed(ids=1, output=4)), {"held": (ids(3, 5), ids(4, 5)), "width": 8}, "same number of rows"
    ),
    "fixed and varying rows": (
        (ONE, changed(ids=1, output=4)), {"held": (ids(3, 5), varying("batch", 5, dtype=LONG)), "width": 8}, "same number of rows"
    ),
    "weights of another shape": ((changed(weights=0),), {"weights": (tensor(3, 4),)}, r"floating-point weights \[3, 5\]"),
    "weights of fewer dimensions": ((changed(weights=0),), {"weights": (tensor(3),)}, r"floating-point weights \[3, 5\]"),
    "integer weights": ((changed(weights=0),), {"weights": (ids(3, 5),)}, "floating-point weights .* got torch.int64"),
    "one number of a copy": ((ONE,), {"dense": (tensor(3, 2),), "copies": (0,)}, "copies must be pairs, got 1"),
    "no dense input": ((ONE,), {"copies": (0, 4), "width": 6}, "no dense input at position 0"),
    "a dense vector": ((ONE,), {"dense": (tensor(3),), "copies": (0, 4), "width": 6}, "floating-point dense input"),
    "an integer dense input": ((ONE,), {"dense": (ids(3, 2),), "copies": (0, 4), "width": 6}, "floating-point dense input"),
    "dense rows": ((ONE,), {"dense": (tensor(4, 2),), "copies": (0, 4), "width": 6}, "as many rows as the ids"),
    "a gap": ((changed(output=1),), {"width": 5}, "each of 5 columns once"),
    "a gap behind": ((ONE,), {"width": 5}, "each of 5 columns once"),
    "columns written twice": ((ONE, changed(output=3)), {"width": 7}, "each of 7 columns once"),
    "columns beyond the width": ((ONE,), {"width": 3}, "each of 3 columns once"),
    "a jagged bag side by side": (
        (changed(BAG, pooling=NONE),), {"held": (ids(7),), "offsets": (ids(4),)}, "jagged bags must be pooled"
    ),
    "jagged ids of two dimensions": ((BAG,), {"offsets": (ids(4),)}, "jagged ids and offsets must be vectors"),
    "offsets of two dimensions": ((BAG,), {"held": (ids(7),), "offsets": (ids(4, 1),)}, "must be vectors"),
    "float offsets": ((BAG,), {"held": (ids(7),), "offsets": (tensor(4),)}, "must be vectors"),
    "no offsets": ((changed(BAG, offsets=-1),), {"held": (ids(7),)}, "no offsets at position -1"),
    "a segment too many": (
        (changed(BAG, segment=2, segments=2),), {"held": (ids(7),), "offsets": (ids(4),)}, r"segment 2 is not in \[0, 2\)"
    ),
    "a negative segment": (
        (changed(BAG, segment=-1),), {"held": (ids(7),), "offsets": (ids(4),)}, r"segment -1 is not in \[0, 1\)"
    ),
    "too many segments": (
        (changed(BAG, segments=WIDE),), {"held": (ids(7),), "offsets": (ids(4),)}, f"segment 0 is not in .0, {WIDE}"
    ),
    "integer weights of a jagged bag": (
        (changed(BAG, weights=0),),
        {"held": (ids(7),), "offsets": (ids(4),), "weights": (ids(7),)},
        "weights of jagged ids must be a floating-point vector",
    ),
    "a matrix of weights of a jagged bag": (
        (changed(BAG, weights=0),),
        {"held": (ids(7),), "offsets": (ids(4),), "weights": (tensor(7, 1),)},
        "weights of jagged ids must be a floating-point vector",
    ),
    "fewer weights than ids": (
        (changed(BAG, weights=0),), {"held": (ids(7),), "offsets": (ids(4),), "weights": (tensor(6),)}, "same length"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_lookups_that_do_not_fit(name: str) -> None:
    features, more, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        lookup(*features, **more)


PARAMS = [
    tensor(5, 3),  # 0: a weight
    tensor(5),  # 1: a vector
    tensor(2, 5),  # 2: the next weight
    tensor(2),  # 3: its vector
    tensor(1),  # 4: one slope
    tensor(5, 3, dtype=torch.int8),  # 5
    tensor(3, 3),  # 6: a square
    ids(5),  # 7: integers
    tensor(3),  # 8
    tensor(5, 3, 1),  # 9
    tensor(5, 3, dtype=torch.float16),  # 10
]
FIRST = Layer(0, 1)
DICE = Layer(0, 1, activation="dice", slope=1, gate_scale=1, gate_shift=1)


def mlp(*layers: Layer, x: torch.Tensor = PARAMS[0], width: int | None = None) -> int:
    return checks.check_mlp(x, PARAMS, layers, width)


@pytest.mark.parametrize(
    ("layers", "width"),
    [
        ((FIRST,), 5),
        ((FIRST, Layer(2, 3)), 2),
        ((Layer(5, scale=1),), 5),
        ((Layer(6, residual=0),), 3),
        ((FIRST, Layer(2)), 2),
        ((DICE,), 5),
        ((dataclasses.replace(DICE, activation="row-dice", slope=4),), 5),
        ((Layer(0, activation="prelu", slope=4),), 5),
        ((Layer(0, activation="prelu", slope=1),), 5),
        ((Layer(0, norm_weight=1, norm_bias=1, norm=True),), 5),
        ((Layer(6), Layer(6, residual=1)), 3),
    ],
)
def test_mlps_that_fit(layers: tuple[Layer, ...], width: int) -> None:
    assert mlp(*layers) == width


def test_an_mlp_of_another_width_than_its_input() -> None:
    assert mlp(FIRST, x=tensor(2, 9), width=3) == 5
    assert mlp(FIRST, x=tensor(3)) == 5


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "an MLP must have a layer"),
        ((Layer(11),), "no weight at position 11 of a list of 11"),
        ((Layer(-1),), "no weight at position -1"),
        ((Layer(2),), r"expected a weight of 3 columns, got \[2, 5\]"),
        ((FIRST, FIRST), r"expected a weight of 5 columns, got \[5, 3\]"),
        ((Layer(9),), "matrix as weight, got torch.float32 of 3 dimensions"),
        ((Layer(10),), "matrix as weight, got torch.float16 of 2 dimensions"),
        ((Layer(0, 3),), r"expected a vector of 5 elements, got \[2\]"),
        ((Layer(0, 7),), "expected a floating-point vector, got torch.int64"),
        ((Layer(0, -2),), "no vector at position -2"),
        ((Layer(5),), "an int8 weight needs scales"),
        ((Layer(5, scale=3),), r"expected a vector of 5 elements, got \[2\]"),
        ((dataclasses.replace(DICE, gate_scale=-1),), "Dice needs gate_scale and gate_shift"),
        ((dataclasses.replace(DICE, gate_shift=-1),), "Dice needs gate_scale and gate_shift"),
        ((dataclasses.replace(DICE, activation="row-dice", gate_shift=-1),), "Dice needs gate_scale and gate_shift"),
        ((dataclasses.replace(DICE, gate_scale=3),), r"expected a vector of 5 elements, got \[2\]"),
        ((dataclasses.replace(DICE, gate_shift=3),), r"expected a vector of 5 elements, got \[2\]"),
        ((dataclasses.replace(DICE, slope=-1),), "no slope at position -1"),
        ((dataclasses.replace(DICE, activation="row-dice", slope=-1),), "no slope at position -1"),
        ((Layer(0, activation="prelu"),), "no slope at position -1"),
        ((Layer(0, activation="prelu", slope=3),), "a slope must have 1 or 5 elements"),
        ((Layer(0, activation="prelu", slope=7),), "a slope must be floating point"),
        ((Layer(0, norm_weight=3),), r"expected a vector of 5 elements, got \[2\]"),
        ((Layer(0, norm_bias=3),), r"expected a vector of 5 elements, got \[2\]"),
        ((Layer(6, residual=1),), "residual 1 is not an earlier layer"),
        ((Layer(6, residual=-2),), "residual -2 is not an earlier layer"),
        ((Layer(0, residual=0),), "a residual must have 5 columns"),
        ((FIRST, Layer(2, residual=1)), "a residual must have 2 columns"),
    ],
)
def test_mlps_that_do_not_fit(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(*layers)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (ids(2, 3), "expected a floating-point input"),
        (tensor(), "expected a floating-point input"),
        (varying(2, "n"), "dimension 1 must be fixed"),
    ],
)
def test_inputs_that_an_mlp_refuses(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(FIRST, x=x)


CROSS = [tensor(3), tensor(1, 3), tensor(3, 3), tensor(2, 3), tensor(3, 2), ids(3), tensor(4), tensor(4, 3), tensor(2)]
X = tensor(7, 3)


@pytest.mark.parametrize(
    "layer",
    [
        CrossLayer(0, 0),
        CrossLayer(0, 1, bias=0),
        CrossLayer(1, 2, bias=0, scale=0),
        CrossLayer(2, 4, inner=3, bias=0, inner_scale=8, scale=0),
    ],
)
def test_cross_layers_that_fit(layer: CrossLayer) -> None:
    checks.check_cross(X, X, CROSS, [layer, layer])
    checks.check_cross(tensor(3), tensor(3), CROSS, [layer])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (CrossLayer(3, 0), "kind must be 0, 1 or 2, got 3"),
        (CrossLayer(-1, 0), "kind must be 0, 1 or 2, got -1"),
        (CrossLayer(0, 9), "no weight at position 9 of a list of 9"),
        (CrossLayer(0, 6), r"vector of 3 elements, got torch.float32 \[4\]"),
        (CrossLayer(0, 5), "vector of 3 elements, got torch.int64"),
        (CrossLayer(0, 0, bias=6), r"vector of 3 elements, got \[4\]"),
        (CrossLayer(1, 4), "expected a weight of 3 columns"),
        (CrossLayer(1, 3), "expected a weight of 3 rows, got 2"),
        (CrossLayer(1, 2, bias=8), "expected a vector of 3 elements"),
        (CrossLayer(1, 2, scale=8), "expected a vector of 3 elements"),
        (CrossLayer(2, 4, inner=4), "expected a weight of 3 columns"),
        (CrossLayer(2, 4, inner=2), r"expected a weight of 3 columns, got \[3, 2\]"),
        (CrossLayer(2, 4), "no weight at position -1"),
        (CrossLayer(2, 4, inner=3, inner_scale=0), r"expected a vector of 2 elements, got \[3\]"),
    ],
)
def test_cross_layers_that_do_not_fit(layer: CrossLayer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.check_cross(X, X, CROSS, [layer])


@pytest.mark.parametrize(
    ("x0", "x", "message"),
    [
        (tensor(6, 3), X, "same shape"),
        (tensor(7, 4), X, "same shape"),
        (tensor(3), X, "same shape"),
        (tensor(), tensor(), "same shape"),
        (varying("batch", 3), X, "same shape"),
        (ids(7, 3), X, "must be floating point, got torch.int64, torch.float32"),
        (X, ids(7, 3), "must be floating point, got torch.float32, torch.int64"),
        (varying(7, "n"), varying(7, "n"), "dimension 1 must be fixed"),
    ],
)
def test_inputs_that_cross_layers_refuse(x0: torch.Tensor, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.check_cross(x0, x, CROSS, [CrossLayer(0, 0)])


SCORE = [tensor(1, 6), tensor(2, 6)]


def attention(**more: Any) -> None:
    given: dict[str, Any] = {
        "query": tensor(4, 3), "keys": tensor(4, 5, 3), "mask": tensor(4, 5, dtype=torch.bool), "parts": (0, 4), "masking": 3, "weight": 0
    }  # fmt: skip
    given |= more
    layers = [Layer(given["weight"])]
    checks.check_attention(
        given["query"], given["keys"], given["mask"], SCORE, layers, given["parts"], given["masking"]
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mask": None, "masking": 0},
        {"masking": 0},
        {"keys": tensor(1, 5, 3), "mask": tensor(1, 5, dtype=torch.bool)},
        {"mask": tensor(1, 5, dtype=torch.bool)},
        {"query": varying("batch", 3), "keys": varying("batch", 5, 3), "mask": tensor(1, 5, dtype=torch.bool)},
    ],
)
def test_attention_that_fits(more: dict[str, Any]) -> None:
    attention(**more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"query": tensor(4, 1, 3)}, "got 3 and 3 dimensions"),
        ({"keys": tensor(5, 3)}, "got 2 and 2 dimensions"),
        ({"keys": tensor(4, 5, 2)}, "the same width"),
        ({"keys": tensor(3, 5, 3)}, "keys must have one row, or as many as the query"),
        ({"parts": ()}, r"parts must be in \[0, 5\), got \[\]"),
        ({"parts": (0, 5)}, r"got \[0, 5\]"),
        ({"parts": (-1, 1)}, r"got \[-1, 1\]"),
        ({"masking": 4}, r"masking must be in \[0, 3\], got 4"),
        ({"masking": -1}, r"masking must be in \[0, 3\], got -1"),
        ({"mask": None, "masking": 1}, "masking 1 needs a mask"),
        ({"mask": tensor(4, 5)}, "expected a bool mask"),
        ({"mask": tensor(5, dtype=torch.bool)}, "of 1 dimensions"),
        ({"mask": tensor(3, 5, dtype=torch.bool)}, "one row or as many as the query"),
        ({"mask": tensor(4, 4, dtype=torch.bool)}, "as many columns as there are keys"),
        ({"parts": (0,)}, "expected a weight of 3 columns"),
        ({"weight": 1}, "the MLP must end in one column"),
    ],
)
def test_attention_that_does_not_fit(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**more)


def test_vectors_that_fit() -> None:
    checks.check_vectors(tensor(3, 4, 5))
    checks.check_vectors(varying("batch", 4, 5))
    checks.check_vectors(tensor(3, 4, 5), tensor(3, 2))


@pytest.mark.parametrize(
    ("x", "prefix", "message"),
    [
        (tensor(3, 4), None, "of 2 dimensions"),
        (ids(3, 4, 5), None, "got torch.int64 of 3 dimensions"),
        (tensor(3, 4, 5), tensor(3), "floating-point prefix .* of 1 dimensions"),
        (tensor(3, 4, 5), ids(3, 2), "floating-point prefix"),
        (tensor(3, 4, 5), tensor(4, 2), "as many rows as the vectors"),
        (varying("batch", 4, 5), tensor(4, 2), "as many rows as the vectors"),
    ],
)
def test_vectors_that_do_not_fit(x: torch.Tensor, prefix: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.check_vectors(x, prefix)


@pytest.mark.parametrize(
    "operator", [lambda x: interaction.dot_interaction(x, None, False, True), lambda x: interaction.fm(x, True)]
)
def test_interactions_refuse_what_are_no_vectors(operator: Any) -> None:
    assert operator(tensor(3, 4, 5)).ndim == 2
    with pytest.raises(ValueError, match="of 2 dimensions"):
        operator(tensor(3, 4))
