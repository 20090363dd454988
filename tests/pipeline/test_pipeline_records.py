"""Declarations of passes, data classes and the records of bisection."""

from __future__ import annotations

from typing import Any

import frozen_kit
import pytest
import torch
from pipeline_cases import NEG, RELU, TANH, chain, drop_double_relu, made, spoil, targets

import recfx
import recfx.pipeline
from recfx.ir import Exactness, Level, Program
from recfx.ir.program import Applied
from recfx.passes import Canonicalize
from recfx.pipeline import (
    BisectResult,
    Pass,
    PassContext,
    PassSpec,
    Pipeline,
)

aten = torch.ops.aten


def test_declarations_have_these_defaults() -> None:
    spec = PassSpec("plain", "A pass.")
    assert spec.exactness is Exactness.EXACT
    assert spec.requires == {"functional"}
    assert not any((spec.forbids, spec.establishes, spec.invalidates, spec.preserves, spec.needs))
    assert (spec.changes_state, spec.idempotent, spec.mandatory) == (False, True, False)
    names = ("requires", "forbids", "establishes", "invalidates", "preserves", "needs")
    lists: dict[str, Any] = {name: ["examples"] for name in names}
    given = PassSpec("given", "A pass.", **lists)
    assert all(getattr(given, name) == frozenset({"examples"}) for name in names)
    assert all(type(getattr(given, name)) is frozenset for name in names)
    hash(given)
    with pytest.raises(recfx.PipelineError, match=r"unknown needs \['luck', 'time'\]"):
        PassSpec("given", "A pass.", needs=frozenset({"luck", "time", "labels"}))


@pytest.mark.parametrize("name", ["", "a_b", "Fold", "fold-", "-fold", "fold--it", "9-lives", "fold it"])
def test_names_of_passes_are_kebab_case(name: str) -> None:
    with pytest.raises(recfx.PipelineError, match="kebab-case"):
        PassSpec(name, "x")


def test_descriptions_are_frozen() -> None:
    Pipeline([drop_double_relu]).bisect(chain(RELU, RELU), lambda p: targets(p) == [RELU])
    assert frozen_kit.changeable(recfx.pipeline) == set()


@pytest.mark.parametrize(
    ("where", "alone", "needed", "text"),
    [
        ("", True, True, "rewrite 3: p / r at n"),
        ("head", True, True, "rewrite 3: p / r at n in module 'head'"),
        ("", False, True, "rewrite 3: p / r at n (earlier rewrites are needed as well)"),
        ("", True, False, "rewrite 3: p / r at n (later rewrites are bad as well)"),
        (
            "",
            False,
            False,
            "rewrite 3: p / r at n (earlier rewrites are needed as well; later rewrites are bad as well)",
        ),
    ],
)
def test_a_culprit_is_described(where: str, alone: bool, needed: bool, text: str) -> None:
    assert str(BisectResult(Applied(3, "p", "r", "n", where), alone, needed, 9)) == text


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("last", [True, False])
def test_bisection_halves(count: int, last: bool) -> None:
    """Two runs for all and no rewrites, about log2(rewrites) to search, one for the culprit, and two to judge it."""
    seen: list[list[Any]] = []
    worst = count if last else 1

    def bad(program: Program) -> bool:
        seen.append(targets(program))
        return targets(program)[worst - 1] is NEG

    result = Pipeline([spoil]).bisect(chain(*[TANH] * count), bad)
    assert (result.culprit.index, result.culprit.allowed, result.alone, result.needed) == (worst - 1, True, True, True)
    assert result.runs == len(seen)
    assert 5 <= len(seen) <= 5 + (count - 1).bit_length()
    first, second, *_, culprit, alone, needed = seen
    assert (first, second) == ([NEG] * count, [TANH] * count)
    assert culprit == [NEG] * worst + [TANH] * (count - worst)
    assert alone == [NEG if place == worst - 1 else TANH for place in range(count)]
    assert needed == [TANH if place == worst - 1 else NEG for place in range(count)]


def test_bisection_runs_without_verification_unless_asked() -> None:
    def lie(program: Program, ctx: PassContext) -> None:
        (node,) = ctx.nodes(RELU)
        if ctx.gate("lie", node):
            node.args = (program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    pipeline = Pipeline([made(lie)])
    assert pipeline.bisect(chain(TANH, RELU), lambda p: TANH not in targets(p)).culprit.rule == "lie"
    with pytest.raises(recfx.PassError, match="recorded as"):
        pipeline.bisect(chain(TANH, RELU), lambda p: TANH not in targets(p), verify=Level.META)


def test_pipelines_are_values() -> None:
    one, other = Pipeline("canonicalize"), Pipeline([Canonicalize])
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert one != Pipeline([])
    assert one != "canonicalize"
    assert repr(one) == "Pipeline('canonicalize')"
    both = one + Pipeline([spoil])
    assert (str(both), len(both), list(both)) == ("canonicalize,tanh-to-neg", 2, [*one, spoil])
    for wrong in (42, Pass, object):
        with pytest.raises((recfx.PipelineError, TypeError)):
            Pipeline([wrong])  # type: ignore[list-item]
