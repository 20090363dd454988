"""Malicious saved signatures: sizes, structures and classes of inputs and outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from artifact_kit import rewrite_program
from hostile_kit import Change, edit, signature

import recfx


@pytest.mark.parametrize(
    "size",
    [
        "().__class__.__mro__[1].__subclasses__()",
        "__import__('os').system('true')",
        "[x for x in (1,)]",
        "9**9**9**9",
        "batch**99",
        "f(batch)",
        "Max()",
        "batch if batch else 1",
        "'a'*9",
        "1.5*batch",
        "(" * 1500 + "batch" + ")" * 1500,
        "-" * 500 + "batch",
        "3",
        "",
    ],
)
def test_sizes_are_arithmetic_over_dimensions(saved: Path, size: str) -> None:
    rewrite_program(saved, edit(lambda d: signature(d)["leaves"][0]["shape"], 0, size))
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        edit(signature, "parameters", ["dense", "dense"]),
        edit(signature, "parameters", ["dense", "sparse=os"]),
        edit(signature, "parameters", ["dense"]),
        edit(signature, "keyword_only", ["other"]),
        edit(signature, "defaults", [["x: int", 1]]),
        edit(signature, "defaults", [["x", {"node": "dense"}]]),
        edit(signature, "in_spec", {"tuple": [None, None]}),
        edit(signature, "in_spec", {"default_dict": ["os.system", []]}),
        edit(signature, "out_spec", {"tuple": [None, None, None]}),
        edit(signature, "out_spec", {"dict": [["a", None], ["a", None]]}),
        edit(signature, "out_spec", {"deque": [-1, [None]]}),
        edit(signature, "dims", {"batch": [1, 0]}),
        edit(signature, "dims", {"batch": [-5, None]}),
        edit(signature, "dims", {"a;b": [1, None]}),
        edit(lambda d: signature(d)["leaves"][0], "dtype", {"dtype": "__class__"}),
        edit(lambda d: signature(d)["leaves"][0], "dtype", {"dtype": "load"}),
        edit(lambda d: signature(d)["leaves"][0], "device", {"device": "cpu:x"}),
        edit(lambda d: signature(d)["leaves"][0], "kind", "pickle"),
        edit(lambda d: signature(d)["leaves"][0], "shape", [1 << 50, 4]),
        edit(lambda d: signature(d)["leaves"][0], "shape", ["batch", 4]),
        edit(lambda d: d, "origins", {"dense": "elsewhere"}),
        edit(lambda d: d, "notices", [1]),
        edit(lambda d: d, "nodes", []),
        edit(lambda d: d, "format", 2),
        edit(lambda d: d, "surplus", 1),
    ],
)
def test_a_signature_that_contradicts_itself_is_refused(saved: Path, change: Change) -> None:
    rewrite_program(saved, change)
    with pytest.raises(recfx.ArtifactError) as caught:
        recfx.load(saved)
    assert caught.value.hint


def test_the_repeated_parameter_is_named(saved: Path) -> None:
    rewrite_program(saved, edit(signature, "parameters", ["first", "second", "third", "second"]))
    with pytest.raises(recfx.ArtifactError, match="the parameter 'second' occurs twice"):
        recfx.load(saved)


def test_no_class_is_imported_for_a_file(saved: Path) -> None:
    kind = {"module": "antigravity", "name": "Geohash", "fields": ["a"], "context": None}
    rewrite_program(saved, edit(signature, "out_spec", {"class": kind, "children": [None]}))
    with pytest.raises(recfx.ArtifactError, match=r"not known here[\s\S]*import antigravity before loading"):
        recfx.load(saved)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"), [("subprocess", "Popen"), ("os", "stat_result"), ("builtins", "tuple"), ("torch", "Tensor")]
)
def test_only_plain_data_classes_are_built(saved: Path, module: str, name: str) -> None:
    kind = {"module": module, "name": name, "fields": [], "context": None}
    rewrite_program(saved, edit(signature, "out_spec", {"class": kind, "children": [None]}))
    with pytest.raises(recfx.ArtifactError):
        recfx.load(saved)
