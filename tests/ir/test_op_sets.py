"""Sets of operators: members have the property that the name states, have their arguments where callers read them, and occur once."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from recfx.ir import op_sets

_aten = torch.ops.aten
ROOT = Path(__file__).parents[2]
SETS: dict[str, tuple[Any, ...]] = {
    name: tuple(members) for name, members in vars(op_sets).items() if name.isupper() and not name.startswith("_")
}

#: Arguments after a tensor [2, 3] (2 x 1 x 3 for squeezes) with which each member keeps all elements.
ARGUMENTS: dict[Any, tuple[Any, ...]] = {
    **dict.fromkeys(op_sets.SIZED_RESHAPES, ([3, 2],)),
    _aten.flatten.using_ints: (0, 1),
    _aten.unflatten.int: (0, [1, 2]),
    _aten.unsqueeze.default: (1,),
    _aten.squeeze.default: (),
    _aten.squeeze.dim: (1,),
    _aten.squeeze.dims: ([1],),
    **dict.fromkeys(op_sets.TRANSPOSITIONS, (0, 1)),
    _aten.permute.default: ([1, 0],),
    **dict.fromkeys((*op_sets.MATRIX_TRANSPOSES, *op_sets.REVERSALS), ()),
    **dict.fromkeys((_aten.movedim.int, _aten.moveaxis.int), (0, 1)),
    **dict.fromkeys((_aten.movedim.intlist, _aten.moveaxis.intlist), ([0], [1])),
    **dict.fromkeys(op_sets.COPIES, ()),
    **dict.fromkeys(op_sets.LENGTH_SPLITS, (2, 0)),
    **dict.fromkeys(set(op_sets.EQUAL_SPLITS) - set(op_sets.LENGTH_SPLITS), (2, 0)),
    _aten.tensor_split.indices: ([1], 0),
    **dict.fromkeys(set(op_sets.SPLITS) - set(op_sets.EQUAL_SPLITS) - {_aten.tensor_split.indices}, ([1, 1], 0)),
}


def source_of(target: Any) -> torch.Tensor:
    held = torch.arange(6.0).reshape(2, 3)
    return held.unsqueeze(1) if target in op_sets.SQUEEZES else held


@pytest.mark.parametrize("target", [*op_sets.REGROUPINGS, *op_sets.COPIES], ids=str)
def test_regroupings_and_copies_keep_the_order(target: Any) -> None:
    assert target(source_of(target), *ARGUMENTS[target]).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("target", op_sets.PERMUTATIONS, ids=str)
def test_permutations_move_dimensions(target: Any) -> None:
    assert target(source_of(target), *ARGUMENTS[target]).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("target", op_sets.SPLITS, ids=str)
def test_splits_have_their_dimension_third(target: Any) -> None:
    parts = target(source_of(target), *ARGUMENTS[target])
    assert target._schema.arguments[2].name == "dim"
    assert torch.cat(list(parts)).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "position", "argument"),
    [
        ("SLICES", 1, "dim"),
        ("POOLINGS", 1, "dim"),
        ("JOINS", 1, "dim"),
        ("LENGTH_SPLITS", 1, "split_size"),
        ("EMBEDDING_BAGS", 2, "offsets"),
        ("RECURRENT", 6, "train"),
        ("DROPOUTS", 2, "train"),
        ("ADDED_PRODUCTS", 2, "mat2"),
    ],
)
def test_arguments_stand_where_callers_read_them(name: str, position: int, argument: str) -> None:
    for target in SETS[name]:
        assert target._schema.arguments[position].name in (argument, f"{argument}s", argument.replace("mat", "batch"))


@pytest.mark.parametrize("target", op_sets.SIZED, ids=str)
def test_sizes_are_the_second_argument(target: Any) -> None:
    assert target(torch.zeros(3, 1), [3, 1]).shape == (3, 1)


@pytest.mark.parametrize("target", sorted(op_sets.ALIASES & ARGUMENTS.keys(), key=str), ids=str)
def test_aliases_may_share_memory(target: Any) -> None:
    source = source_of(target)
    made = target(source, *ARGUMENTS[target])
    part = made if isinstance(made, torch.Tensor) else made[0]
    assert part.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def spelled_out() -> list[str]:
    """Literals that contain every member of a named set."""
    sets = {name: {str(member).removeprefix("aten.") for member in members} for name, members in SETS.items()}
    fewest = min(map(len, sets.values()))
    found = []
    folders = ("recfx", "passes", "targets", "benchmarks", "tests")
    files = {f.resolve() for folder in folders for f in (ROOT / folder).rglob("*.py")}
    for file in sorted(files - {Path(op_sets.__file__).resolve(), Path(__file__).resolve()}):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)) if "aten" in text else ():
            if isinstance(node, ast.Tuple | ast.List | ast.Set) and len(node.elts) >= fewest:
                literal = {ast.unparse(e).rpartition("aten.")[2] for e in node.elts if isinstance(e, ast.Attribute)}
                found += [
                    f"{file.relative_to(ROOT)}:{node.lineno} spells out {name}"
                    for name, members in sets.items()
                    if members <= literal
                ]
    return found


def test_no_file_spells_a_set_out() -> None:
    assert spelled_out() == []
