"""Saved models whose inputs and outputs are named tuples, dataclasses and other containers."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import recfx
from recfx.ir.nesting import decode_spec

Pair = namedtuple("Pair", ["a", "b"])


class Scores(NamedTuple):
    click: torch.Tensor
    buy: torch.Tensor


@dataclass
class Output:
    scores: Scores
    hidden: torch.Tensor | None = None


@dataclass
class Features:
    dense: torch.Tensor
    ids: torch.Tensor


torch.export.register_dataclass(Output)  # as torch requires of a dataclass that a captured model returns


class Tower(torch.nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.table = torch.nn.Embedding(7, 4)
        self.top = torch.nn.Linear(7, 2)

    def forward(self, x: Any) -> Any:
        dense, ids = (x.dense, x.ids) if isinstance(x, Features) else x
        out = self.top(torch.cat([dense, self.table(ids)], 1))
        scores = Scores(out[:, 0], out[:, 1].sigmoid())
        return {
            "named tuple": lambda: scores,
            "old named tuple": lambda: Pair(scores, [out]),
            "dataclass": lambda: Output(scores, out),
            "dataclass with none": lambda: Output(scores),
            "ordered dict": lambda: OrderedDict(z=out, a=scores),
            "keys": lambda: {1: out, "a": {"b": (scores,)}},
        }[self.form]()


FORMS = ["named tuple", "old named tuple", "dataclass", "dataclass with none", "ordered dict", "keys"]


def inputs(batch: int) -> Any:
    return torch.rand(batch, 3), torch.randint(0, 7, (batch,))


def same(one: Any, other: Any) -> bool:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Output):
        return same(one.scores, other.scores) and same(one.hidden, other.hidden)
    return one is other is None or all(map(same, one, other))


@pytest.mark.parametrize("form", FORMS)
def test_outputs_come_back_as_the_classes_they_were(tmp_path: Path, form: str) -> None:
    fast = recfx.optimize(Tower(form).eval(), example_inputs=(inputs(4),), measure=False)
    fast.save(tmp_path / "model")
    for batch in (1, 5):
        given = inputs(batch)
        assert same(recfx.load(tmp_path / "model")(given), fast(given))


def test_dataclasses_are_inputs_too(tmp_path: Path) -> None:
    fast = recfx.optimize(Tower("dataclass").eval(), example_inputs=(Features(*inputs(4)),), measure=False)
    fast.save(tmp_path / "model")
    given = Features(*inputs(3))
    assert same(recfx.load(tmp_path / "model")(given), fast(given))


SCRIPT = """
import sys, recfx
from dataclasses import dataclass
from typing import Any, NamedTuple

try:
    recfx.load(sys.argv[1])
except recfx.ArtifactError as error:
    print(error)

class Scores(NamedTuple):
    click: Any
    buy: Any

@dataclass
class Output:
    scores: Any
    hidden: Any = None

for kind in (Scores, Output):
    kind.__module__ = sys.argv[2]

import torch
found = recfx.load(sys.argv[1], types=[Scores, Output])((torch.rand(2, 3), torch.zeros(2, dtype=torch.int64)))
print(type(found).__name__, type(found.scores).__name__, list(found.hidden.shape))
Output.__dataclass_fields__.pop("hidden")
try:
    recfx.load(sys.argv[1], types=[Scores, Output])
except recfx.ArtifactError as error:
    print(error)
"""


def test_a_fresh_process_is_told_what_to_import_and_takes_classes_that_it_is_given(tmp_path: Path) -> None:
    recfx.optimize(Tower("dataclass").eval(), example_inputs=(inputs(4),), measure=False).save(tmp_path / "model")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), __name__]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(recfx.__file__).parents[1])
    assert run.returncode == 0, run.stderr
    assert f"import {__name__} before loading, or pass recfx.load(..., types=[Output])" in run.stdout
    assert "Output Scores [2, 2]" in run.stdout
    assert "has the fields ['scores'], not ['scores', 'hidden']" in run.stdout


def test_a_class_inside_a_function_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    class Hidden(NamedTuple):
        a: torch.Tensor

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return Hidden(x * 2)

    fast = recfx.optimize(Model().eval(), example_inputs=(torch.rand(3, 2),), measure=False)
    with pytest.raises(recfx.ArtifactError, match="define it at the top of a module"):
        fast.save(tmp_path / "model")


RESULTS = {
    "topk": lambda x: x.topk(2, dim=1),
    "max": lambda x: torch.max(x, dim=1),
    "sort": lambda x: {"ranked": x.sort(dim=1, descending=True)},
    "median": lambda x: (x.median(dim=1), x.kthvalue(2, dim=1)),
    "sizes": lambda x: {"y": x * 2, "batch": x.shape[0], "again": len(x), "width": x.shape[1]},
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_torch_returns_is_saved(tmp_path: Path, name: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return RESULTS[name](x)

    fast = recfx.optimize(Model().eval(), example_inputs=(torch.rand(3, 4),), measure=False)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for rows in (1, 5):
        x = torch.rand(rows, 4)
        want = Model()(x)
        for got in (fast(x), loaded(x)):
            assert type(got) is type(want)
            assert str(got) == str(want)


@pytest.mark.parametrize("children", [[None], [None, None, None]])
def test_results_of_torch_with_other_numbers_of_values_are_refused(children: list[None]) -> None:
    described = {"module": "torch.return_types", "name": "topk", "fields": ["values", "indices"], "context": None}
    with pytest.raises(recfx.ArtifactError, match="is not built of"):
        decode_spec({"class": described, "children": children})
