"""When the results of all passes are wrong, the error names the pass and the rewrite, and a folder that reproduces it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs

import recfx
from recfx.capture import capture
from recfx.driver.blame import Blame
from recfx.errors import VerificationError
from recfx.pipeline import Pipeline
from recfx.pipeline.reproducer import read_pipeline, read_reproducer

aten = torch.ops.aten


@recfx.rewrite(aten.tanh.default)
def tanh_is_odd(node: Any, ctx: recfx.PassContext) -> Any:
    """Wrong: gives the negative of tanh for the tanh of a negative."""
    inner = node.args[0]
    if inner.target is not aten.neg.default:
        return recfx.Miss("its input is not a negative")
    return ctx.call(aten.tanh.default, inner.args[0])


@recfx.rewrite(aten.relu.default, exactness=recfx.Exactness.REASSOC)
def drop_relu(node: Any, ctx: recfx.PassContext) -> Any:
    """Wrong: a relu is not the identity."""
    return node.args[0]


class Block(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Chain(torch.nn.Module):
    """Functions one after another, the last of which is called `last`."""

    def __init__(self, *functions: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(*map(Block, functions[:-1]))
        self.last = Block(functions[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(x))


def blamed(model: torch.nn.Module, inputs: Any, **options: Any) -> recfx.PassError:
    with pytest.raises(recfx.PassError) as caught:
        recfx.optimize(model.eval(), example_inputs=inputs, measure=False, **options)
    return caught.value


@pytest.mark.parametrize("own", [{"extra_passes": [tanh_is_odd]}, {"pipeline": ["canonicalize", tanh_is_odd]}])
def test_the_pass_and_the_rewrite_are_named(own: dict[str, Any], tmp_path: Path) -> None:
    model = Chain(torch.tanh, torch.square, lambda x: torch.tanh(-x))
    error = blamed(model, torch.randn(4, 3), debug=tmp_path, **own)
    assert "pass tanh-is-odd (number" in error.what
    assert "changes the results: differs by" in error.what
    assert "at fault is rewrite 0: tanh-is-odd / tanh-is-odd at tanh" in error.what
    assert error.where is not None
    assert "rewritten in module 'last'" in error.where
    assert error.hint == f"re-run it alone with: python {tmp_path / 'reproducer' / 'run.py'}"
    (item,) = read_pipeline(tmp_path / "reproducer")
    assert item.spec == tanh_is_odd.spec
    assert any(n.target is aten.neg.default for n in read_reproducer(tmp_path / "reproducer").graph.nodes)


def test_a_wrong_rewrite_that_claims_to_reorder_sums() -> None:
    error = blamed(TinyCtr(), tiny_inputs(6), pipeline=[drop_relu, "fold-batchnorm"], target="eager")
    assert "pass drop-relu (number 1) changes the results" in error.what


def test_a_pass_that_does_not_ask_the_gate_is_named_without_a_rewrite() -> None:
    class Ungated(recfx.Pass):
        spec = recfx.PassSpec("ungated", "Says it is exact.")

        def run(self, program: recfx.Program, ctx: recfx.PassContext) -> None:
            for node in ctx.nodes(aten.tanh.default):
                with ctx.before(node):
                    ctx.replace(node, ctx.call(aten.neg.default, node.args[0]))

    error = blamed(Chain(torch.relu, torch.tanh), torch.randn(4, 3), pipeline=[Ungated])
    assert "pass ungated (number 1) changes the results" in error.what
    assert "at fault" not in error.what
    assert "re-run it alone with" in str(error)


def test_a_wrong_program_that_fails_is_blamed_too() -> None:
    @recfx.rewrite(aten.relu.default)
    def bakes_the_batch_in(node: Any, ctx: recfx.PassContext) -> Any:
        """Wrong: fixes a size."""
        return ctx.call(
            aten.add.Tensor, ctx.call(aten.abs.default, node.args[0]), ctx.constant("zeros", torch.zeros(4, 3))
        )

    error = blamed(Chain(torch.relu, torch.square), torch.rand(4, 3), pipeline=[bakes_the_batch_in], verify="structure")
    assert "pass bakes-the-batch-in (number 1) changes the results: " in error.what
    assert "at fault is rewrite 0" in error.what


@given(wrong=st.integers(0, 3), right=st.lists(st.integers(0, 3), max_size=2))
@settings(max_examples=8, deadline=None)
def test_the_wrong_one_of_several_rewrites_is_found(wrong: int, right: list[int]) -> None:
    """Of four squares, one becomes a cube and some become products."""
    seen: list[str] = []

    @recfx.rewrite(aten.square.default, exactness=recfx.Exactness.REASSOC)
    def rewrites(node: Any, ctx: recfx.PassContext) -> Any:
        """Wrong for one of the nodes."""
        if node.name not in seen:
            seen.append(node.name)
        place = seen.index(node.name)
        if place == wrong:
            return ctx.call(aten.pow.Tensor_Scalar, node.args[0], 3)
        return ctx.call(aten.mul.Tensor, node.args[0], node.args[0]) if place in right else None

    model = Chain(*[torch.square] * 4)
    error = blamed(model, torch.rand(4, 3) + 1, pipeline=[rewrites], target="eager")
    name = "square" if wrong == 0 else f"square_{wrong}"
    assert f"rewrites / rewrites at {name} in module" in error.what


class Fails(recfx.Pass):
    """Raises, whatever the program is."""

    spec = recfx.PassSpec("fails", "Raises.")

    def run(self, program: recfx.Program, ctx: recfx.PassContext) -> None:
        raise ValueError("an error of the pass")


@recfx.rewrite(aten.tanh.default)
def tanh_is_odd_or_fails(node: Any, ctx: recfx.PassContext) -> Any:
    """Wrong as `tanh_is_odd` is, and raises where a tanh has an input of the model."""
    return ctx.call(aten.tanh.default, node.args[0].args[0]) if node.args[0].args else node.args[1]


def blame(*passes: recfx.Pass, lenient: bool) -> tuple[Blame, VerificationError]:
    """The blame of passes over the tanh of an input and the tanh of a negative, and an error to explain."""
    captured = capture(Chain(torch.tanh, torch.square, lambda x: torch.tanh(-x)).eval(), (torch.randn(4, 3),))
    final = VerificationError("the outputs differ", hint="none")
    return Blame(captured, Pipeline(list(passes)), {}, special=True, lenient=lenient), final


def test_passes_and_rules_that_were_left_out_do_not_hide_the_wrong_rewrite(tmp_path: Path) -> None:
    finder, final = blame(Fails(), tanh_is_odd_or_fails, lenient=True)
    error = finder.error(final, recfx.Exactness.EXACT, tmp_path)
    assert "pass tanh-is-odd-or-fails (number 2) changes the results" in error.what
    assert "at fault is rewrite 0: tanh-is-odd-or-fails / tanh-is-odd-or-fails at tanh_1" in error.what


@pytest.mark.parametrize("wrong", [Fails(), tanh_is_odd_or_fails], ids=str)
def test_what_raises_raises_where_nothing_was_left_out(wrong: recfx.Pass, tmp_path: Path) -> None:
    finder, final = blame(wrong, lenient=False)
    with pytest.raises((ValueError, IndexError)):
        finder.error(final, recfx.Exactness.EXACT, tmp_path)


def test_passes_that_differ_only_together_are_named_together(tmp_path: Path) -> None:
    finder, final = blame(lenient=False)
    error = finder.error(final, recfx.Exactness.EXACT, tmp_path)
    assert error.what == (
        "the passes together change the results, although each pass keeps within its class: the outputs differ"
    )
