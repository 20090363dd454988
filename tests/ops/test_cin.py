"""Layers of interaction networks whose operands do not fit are refused, each for its reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recfx.ops.cin import check_cin, cin, product_count, triangle_positions
from recfx.ops.descriptions import Layer
from recfx.ops.mlp import encode

FIELDS, MAPS, D, OUT = 4, 3, 5, 2
PLAIN = Layer(0)
ROW_DICE = Layer(0, activation="row-dice", slope=1, gate_scale=2, gate_shift=3)


def operands(**changes: Any) -> tuple[Tensor, Tensor, list[Tensor], list[Layer], bool]:
    """The operands of a layer that fits, with changes."""
    given = {"x0": (6, FIELDS, D), "x": (6, MAPS, D), "triangle": False, "layers": [PLAIN]} | changes
    columns = given.get("columns", product_count(given["x"][1], FIELDS, given["triangle"]))
    vectors = [torch.ones(OUT) for _ in range(5)]
    x0, x = (torch.ones(given[name], dtype=given.get("dtype", torch.float32)) for name in ("x0", "x"))
    return (
        x0,
        x,
        [torch.ones(OUT, columns, dtype=given.get("weight", torch.float32)), *vectors],
        given["layers"],
        given["triangle"],
    )


FITS: dict[str, dict[str, Any]] = {
    "a layer": {},
    "a bias": {"layers": [Layer(0, 1)]},
    "an activation": {"layers": [Layer(0, activation="relu")]},
    "dice": {"layers": [Layer(0, activation="dice", slope=1, gate_scale=2, gate_shift=3)]},
    "a triangle": {"x": (6, FIELDS, D), "triangle": True},
    "no rows": {"x0": (0, FIELDS, D), "x": (0, MAPS, D)},
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a matrix of fields": ({"x0": (6, FIELDS)}, "vectors"),
    "a matrix of maps": ({"x": (6, MAPS), "columns": 12}, "vectors"),
    "rows": ({"x": (5, MAPS, D)}, "the same number of rows"),
    "columns": ({"x": (6, MAPS, D + 1)}, "the same number of columns"),
    "a triangle of other maps": ({"triangle": True}, f"a triangle needs {FIELDS} maps, got {MAPS}"),
    "no layer": ({"layers": []}, "expected one layer, got 0"),
    "two layers": ({"layers": [PLAIN, PLAIN]}, "expected one layer, got 2"),
    "a norm": ({"layers": [Layer(0, norm=True)]}, "no norm"),
    "a residual of the input": ({"layers": [Layer(0, residual=0)]}, "no residual"),
    "a gate over the outputs": (
        {"layers": [Layer(0, activation="row-dice", slope=1, gate_scale=2, gate_shift=3)]},
        "no gate over its outputs",
    ),
    "factors": ({"layers": [Layer(0, scale=1, factor=2)], "weight": torch.int8}, "no factors"),
    "another weight": ({"columns": MAPS * FIELDS + 1}, f"a weight of {MAPS * FIELDS} columns"),
    "a whole weight of a triangle": ({"x": (6, FIELDS, D), "triangle": True, "columns": 16}, "a weight of 10 columns"),
}


@pytest.mark.parametrize("name", FITS)
def test_operands_that_fit(name: str) -> None:
    held = operands(**FITS[name])
    assert check_cin(*held) == OUT
    made = cin(*held[:3], *encode(held[3]), held[4])
    assert made.shape == (held[0].shape[0], OUT, D)


@pytest.mark.parametrize("name", REFUSED)
def test_operands_that_do_not_fit(name: str) -> None:
    changes, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        check_cin(*operands(**changes))


def test_the_products_of_a_triangle() -> None:
    assert triangle_positions(3) == (0, 1, 2, 4, 5, 8)
    assert [len(triangle_positions(n)) for n in range(6)] == [product_count(n, n, True) for n in range(6)]
    assert product_count(MAPS, FIELDS, False) == MAPS * FIELDS
