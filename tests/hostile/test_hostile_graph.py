"""Malicious saved graphs: each is refused with an `ArtifactError`, and no part of it runs."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_kit import rewrite_program
from hostile_kit import Change, edit, features, first_call, lookup
from models import tiny_inputs

import recfx


@pytest.mark.parametrize(
    "target",
    [
        "operator:attrgetter",
        "operator:methodcaller",
        "operator:call",
        "operator:setitem",
        "math:factorial",
        "torch:load",
        "os:system",
        "op:aten.from_file.default",
        "op:aten.add_.Tensor",
        "op:aten.add.out",
        "op:aten.empty_strided.default",
        "op:aten._reshape_alias.default",
        "op:load_library.x.y",
        "op:__class__.__init__.__globals__",
        "op:aten.__init__.__globals__",
        "op:aten.add",
        "op:aten.add.Tensor.__call__",
        "op:mylib.run.default",
        "op:prims.add.default",
        "op:recfx.nothing.default",
        "op:fbgemm.nothing.default",
        "",
        "op:",
    ],
)
def test_only_listed_operators_are_looked_up(saved: Path, target: str) -> None:
    rewrite_program(saved, edit(first_call, "target", target))
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


@pytest.mark.parametrize(
    "name",
    [
        'a"),__import__("os").system("touch /tmp/recfx-harm"),("',
        "x\nimport os",
        "_parameters",
        "__class__",
        "training",
        "forward",
        "a..b",
        ".a",
        "",
        "a b",
        "ﬁeld",
        "x" * 1000,
    ],
)
def test_state_has_plain_names(saved: Path, name: str) -> None:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        node = next(n for n in document["nodes"] if n["op"] == "get_attr")
        document["state"][name] = document["state"][node["state"]]
        node["state"] = name
        return document

    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError, match="name that state can have"):
        recfx.load(saved)


def test_state_is_not_part_of_other_state(saved: Path) -> None:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        first = next(iter(document["state"]))
        document["state"][f"{first}.inner"] = document["state"][first]
        return document

    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError, match="part of another"):
        recfx.load(saved)


@pytest.mark.parametrize("name", ["a b", "x):\n  pass", "import", "é", "", "1x", "x" * 600])
def test_nodes_have_plain_names(saved: Path, name: str) -> None:
    rewrite_program(saved, edit(first_call, "name", name))
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


NUMBERS = [-2, 1 << 20, (1 << 31) + 1, 1 << 40, (1 << 63) - 1, -(1 << 63)]


@pytest.mark.parametrize("field", range(15))
@pytest.mark.parametrize("number", NUMBERS)
def test_lookups_with_positions_outside_are_refused(original: Path, tmp_path: Path, field: int, number: int) -> None:
    """An enormous column number crashed the process. `last` of a bag without offsets, and unusual paddings, have no
    effect."""
    saved = Path(shutil.copytree(original, tmp_path / "model"))
    rewrite_program(saved, edit(features, field, number))
    try:
        fast = recfx.load(saved)
    except recfx.ArtifactError:
        return
    assert field in (6, 7, 8, 9, 12, 13)
    try:
        fast(*tiny_inputs(3))
    except recfx.RecfxError:
        assert field == 13  # ids that lie outside the table once the base is added


@pytest.mark.parametrize(
    "change",
    [
        edit(lookup, 5, {"list": []}),
        edit(lookup, 5, {"list": [0]}),
        edit(lookup, 6, {"list": [0]}),
        edit(lookup, 6, {"list": [5, 0]}),
        edit(lookup, 7, 1 << 40),
        edit(lookup, 7, 5),
        edit(lookup, 7, True),
        edit(lookup, 0, {"list": []}),
        edit(lookup, 0, None),
        edit(first_call, "args", []),
        edit(first_call, "args", [{"node": "missing"}]),
        edit(first_call, "args", [[1]]),
        edit(
            first_call,
            "args",
            [{"tuple": [{"list": [{"tuple": [{"list": [{"tuple": [{"list": [{"tuple": [{"list": []}]}]}]}]}]}]}]}],
        ),
        edit(first_call, "kwargs", {"nothing": 1}),
        edit(first_call, "kwargs", {"self": {"node": "dense"}}),
    ],
)
def test_arguments_that_no_operator_takes_are_refused(saved: Path, change: Change) -> None:
    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


def appended(target: str, args: list[Any], **kwargs: Any) -> Change:
    """A change that inserts a call before the output."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        call = {"op": "call_function", "name": "added", "target": target, "args": args, "kwargs": kwargs}
        document["nodes"].insert(-1, call)
        return document

    return change


DENSE = {"node": "dense"}


@pytest.mark.parametrize(
    "change",
    [
        appended("op:aten.view.default", [DENSE, {"list": [-7, 3]}]),
        appended("op:aten.select.int", [DENSE, 1, 5]),
        appended("op:aten.zeros.default", [{"list": [1 << 40]}]),
        appended("op:aten.expand.default", [DENSE, {"list": [1 << 40, -1, -1]}]),
        appended("op:aten.as_strided.default", [DENSE, {"list": [1 << 50]}, {"list": [1]}]),
        appended("op:aten.linear.default", [DENSE, {"node": "sparse"}]),
        appended("op:aten.add.Tensor", [DENSE, "text"]),
        appended("op:aten.add.Tensor", [DENSE], alpha=1),
        appended("op:aten.to.dtype", [DENSE, "int64"]),
        appended("operator:getitem", [DENSE, 0]),
        appended("operator:mul", ["a", 1 << 40]),
        appended("operator:mul", [{"list": [1]}, 1 << 40]),
        appended("operator:pow", [10, 1 << 40]),
        appended("operator:add", [(1 << 63) - 1, 1]),
        appended("operator:floordiv", [1, 0]),
        appended("torch:sym_max", [1]),
        appended("math:sqrt", [-1]),
        appended("op:recfx.fm.default", [DENSE, True]),
        appended("op:recfx.mlp.default", [DENSE, {"list": []}, {"list": []}, {"list": []}]),
        appended("op:recfx.mlp.default", [DENSE, {"list": [DENSE]}, {"list": [0] * 11}, {"list": [0.0] * 3}]),
        appended("op:recfx.cross.default", [DENSE, DENSE, {"list": []}, {"list": [0, 0, -1, -1, -1, -1]}]),
        appended("op:recfx.code_dot.default", [DENSE, DENSE, None, 8, 8]),
    ],
)
def test_operators_that_do_not_fit_their_operands_are_refused(saved: Path, change: Change) -> None:
    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        ("op:aten.unbind.int", []),
        ("op:aten.split.Tensor", [1]),
        ("op:aten.chunk.default", [1 << 29]),
        ("op:aten.tensor_split.sections", [1 << 29]),
    ],
)
def test_a_tensor_is_not_cut_into_a_billion_pieces(saved: Path, target: str, args: list[Any]) -> None:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        make = {"op": "call_function", "name": "many", "target": "op:aten.zeros.default", "args": [{"list": [1 << 29]}]}
        cut = {"op": "call_function", "name": "cut", "target": target, "args": [{"node": "many"}, *args]}
        document["nodes"][-1:-1] = [make, cut]
        return document

    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError, match="pieces"):
        recfx.load(saved)


def test_attention_over_fewer_values_than_keys_is_refused(saved: Path) -> None:
    """torch's kernel would read past the end of the values."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        zeros = [("q", [2, 2, 4, 8]), ("k", [2, 2, 1000, 8]), ("v", [2, 2, 5, 8])]
        added = [
            {"op": "call_function", "name": name, "target": "op:aten.zeros.default", "args": [{"list": sizes}]}
            for name, sizes in zeros
        ]
        call = {"op": "call_function", "name": "attend", "target": "op:aten.scaled_dot_product_attention.default"}
        document["nodes"][-1:-1] = [*added, {**call, "args": [{"node": name} for name, _ in zeros]}]
        return document

    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError, match="do not fit each other"):
        recfx.load(saved)


def test_operators_of_ones_own_are_asked_for(original: Path, saved: Path) -> None:
    library = torch.library.Library("recfxtest", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("recfxtest::double", lambda x: torch.empty_like(x), lib=library)

    def change(document: dict[str, Any]) -> dict[str, Any]:
        document = copy.deepcopy(document)
        output = document["nodes"][-1]
        call = {
            "op": "call_function",
            "name": "own",
            "target": "op:recfxtest.double.default",
            "args": output["args"][:1],
        }
        document["nodes"].insert(-1, call)
        output["args"] = [{"node": "own"}]
        return document

    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError, match=r'operators=\["recfxtest::double"\]'):
        recfx.load(saved)
    inputs = tiny_inputs(3)
    doubled = recfx.load(saved, operators=["recfxtest::double"])(*inputs)
    assert torch.equal(doubled, 2 * recfx.load(original)(*inputs))
