"""The benchmark cases are found, have unique names, and pass only arguments that the zoo has."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
import torch

from benchmarks import registry
from benchmarks.case import Case
from benchmarks.limits import count_work
from benchmarks.zoo_case import _Build
from recfx.errors import InputError

zoo = pytest.importorskip("recfx.zoo")

CASES = registry.all_cases()
ZOO_CASES = {name: case.build for name, case in CASES.items() if isinstance(case.build, _Build)}


def test_every_model_of_the_zoo_has_a_case() -> None:
    assert {build.model for build in ZOO_CASES.values()} == set(zoo.MODELS)


@pytest.mark.parametrize("name", ZOO_CASES)
def test_cases_use_arguments_that_the_models_have(name: str) -> None:
    build = ZOO_CASES[name]
    bound = inspect.signature(zoo.MODELS[build.model]).bind(**build.overrides)
    assert bound.arguments == build.overrides  # each is the name of a parameter; **kwargs would accept any name


@pytest.mark.parametrize("name", ["neumf", "two-tower", "sasrec"])
def test_small_cases_run_and_are_the_same_each_time(name: str) -> None:
    case = CASES[name]
    first, second = case.model(), case.model()
    assert not first.training
    inputs = case.inputs(first, 4, 1.05, 0)
    assert all(len(value) == 4 for value in inputs)
    with torch.inference_mode():
        assert torch.equal(first(*inputs), second(*inputs))
    gigabytes = sum(p.numel() * p.element_size() for p in first.parameters()) / 1e9
    assert case.gigabytes <= gigabytes <= case.gigabytes + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.large])
def test_every_case_runs_and_is_counted(name: str) -> None:
    case = CASES[name]
    if case.unfit():
        pytest.skip(case.unfit() or "")
    model = case.model()
    work = count_work(model, case.inputs(model, 2, None, 0))
    assert work.lookups > 0
    assert work.weight_bytes > 0 or name == "mf"  # only the two tables are read by rows
    assert work.flops > 0 or name in ("lightgcn", "mf")


def test_names_must_differ_and_plug_ins_be_of_their_kind(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("benchmarks.cases.ctr")
    monkeypatch.setitem(__import__("sys").modules, "benchmarks.cases.ctr", module)
    module.CASES = (next(iter(CASES.values())),) * 2  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="two of CASES are called"):
        registry.all_cases()
    module.CASES = ("dlrm",)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="is not a Case"):
        registry.all_cases()
    assert all(isinstance(case, Case) for case in CASES.values())
