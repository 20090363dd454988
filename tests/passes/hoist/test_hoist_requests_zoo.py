"""hoist-requests on models of the zoo and random graphs: the outputs stay the same for every choice of request
inputs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hoist_cases import PASS, check
from hypothesis import given, settings
from hypothesis import strategies as st
from request_cases import EAGER_TO_SPLIT, SplitFields, hoist, request_call, small

import recfx
from recfx.capture import capture
from recfx.capture.requests import share_requests
from recfx.ir import Exactness, Program, verify_numeric
from recfx.pipeline import Gate
from recfx.testing import rec_graphs

HISTORY_MODELS = ("din", "bst", "two-tower", "dien")
CLICK_MODELS = ("dlrm", "deepfm", "dcn-v2", "mmoe", "wide-deep", "xdeepfm", "autoint")


def test_the_gate_can_hold_back_any_rewrite() -> None:
    program = share_requests(capture(small("din"), small("din").example_inputs(4)), ["user", "history"])  # type: ignore[operator]
    pipeline = recfx.Pipeline([PASS])
    for stop in range(len(pipeline.run(program).rewrites)):
        for allow in (lambda i, stop=stop: i < stop, lambda i, stop=stop: i != stop):
            partial = pipeline.run(program, gate=Gate(allow)).program
            verify_numeric(program, partial, Exactness.REASSOC)


@pytest.mark.parametrize(("name", "many"), [*((n, False) for n in HISTORY_MODELS), ("din", True), ("two-tower", True)])
def test_models_of_the_zoo_with_histories(name: str, many: bool) -> None:
    model = small(name)
    fast = hoist(model, model.example_inputs(5), ("user", "history"), many_requests=many)  # type: ignore[operator]
    before, after = fast.report.arithmetic or (0, 0)
    assert after < before
    _compare(model, fast, (0, 2), many)


@pytest.mark.parametrize(("name", "many"), [*((n, False) for n in CLICK_MODELS), ("dlrm", True), ("deepfm", True)])
def test_models_of_the_zoo_with_fields_of_the_request(name: str, many: bool) -> None:
    model = SplitFields(small(name), (0, 3, 2), 5)
    fast = hoist(model, model.example_inputs(5), ("dense", "user"), many_requests=many)
    before, after = fast.report.arithmetic or (0, 0)
    assert after < before
    _compare(model, fast, (0, 1), many)


def _compare(model: Any, fast: recfx.CompiledModel, at: tuple[int, ...], many: bool) -> None:
    for batch in (1, 2, 7):
        index = torch.arange(batch) % 3 if many else torch.zeros(batch, dtype=torch.int64)
        short, full = request_call(model.example_inputs(batch, seed=batch), at, index)
        keywords = {"request_index": index} if many else {}
        with torch.no_grad():
            torch.testing.assert_close(fast(*short, **keywords), model(*full), rtol=1e-4, atol=1e-5)


@functools.cache
def captured(name: str, fields: tuple[int, ...] | None = None) -> Program:
    """The program of a model of the zoo; with `fields`, these sparse fields are a separate input."""
    model: Any = small(name) if fields is None else SplitFields(small(name), fields, 5)
    return capture(model, model.example_inputs(4))


def hoisted_agrees(program: Program) -> None:
    """The request pipeline preserves a program's results, compared in float64, at batches 1, 2, 7 and the example's."""
    verify_numeric(program, recfx.Pipeline(EAGER_TO_SPLIT).run(program).program, Exactness.REASSOC)


SPLIT_FIELDS = given(
    name=st.sampled_from(CLICK_MODELS),
    fields=st.permutations(range(5)).flatmap(lambda p: st.integers(1, 4).map(lambda k: tuple(p[:k]))),
    inputs=st.sampled_from([("dense", "user"), ("user",), ("dense",), ("dense", "item")]),
    many=st.booleans(),
)
SPLIT_INPUTS = given(
    name=st.sampled_from(HISTORY_MODELS),
    inputs=st.sets(st.sampled_from(["user", "item", "history"]), min_size=1, max_size=2),
    many=st.booleans(),
)


def split_fields_agree(name: str, fields: tuple[int, ...], inputs: tuple[str, ...], many: bool) -> None:
    hoisted_agrees(share_requests(captured(name, fields), inputs, many=many))


def split_inputs_agree(name: str, inputs: set[str], many: bool) -> None:
    hoisted_agrees(share_requests(captured(name), sorted(inputs), many=many))


@settings(max_examples=5, deadline=None)
@SPLIT_FIELDS
def test_any_split_of_fields_gives_the_same_answers(**drawn: Any) -> None:
    split_fields_agree(**drawn)


@settings(max_examples=5, deadline=None)
@SPLIT_INPUTS
def test_any_split_of_inputs_gives_the_same_answers(**drawn: Any) -> None:
    split_inputs_agree(**drawn)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@SPLIT_FIELDS
def test_many_splits_of_fields_give_the_same_answers(**drawn: Any) -> None:
    split_fields_agree(**drawn)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@SPLIT_INPUTS
def test_many_splits_of_inputs_give_the_same_answers(**drawn: Any) -> None:
    split_inputs_agree(**drawn)


@settings(max_examples=20, deadline=None)
@given(program=rec_graphs(), which=st.sampled_from(["dense", "ids"]), many=st.booleans())
def test_random_graphs_keep_their_meaning(program: Program, which: str, many: bool) -> None:
    check(share_requests(program, [which], many=many))


def test_the_default_request_pipeline_hoists_after_folds_and_before_batching() -> None:
    names = [p.spec.name for p in recfx.Pipeline(EAGER_TO_SPLIT)]
    at = names.index("hoist-requests")
    assert all(names.index(n) < at for n in ("canonicalize", "merge-tables", "fold-affine", "fold-batchnorm"))
    assert all(names.index(n) > at for n in names if n.startswith(("batch-", "fuse-")))
