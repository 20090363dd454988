"""Translations of operators into ONNX models: forms that matter for speed, refusals with reasons, and equal results in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recfx.errors import IdError
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.testing.builder import GraphBuilder

pytest.importorskip("onnxruntime", reason='pip install "recfx[onnxruntime]"')

from dialect_cases import CASES, Case, References
from dialect_refusals import REFUSED, refused

from recfx.onnx.translate import Refusals, translate
from recfx.ops import mlp, recurrent
from recfx.targets import BACKENDS

_aten = torch.ops.aten
BATCHES = (1, 2, 5, 33)


def kinds(program: Program) -> list[str]:
    """The kinds of the nodes of a program's model, those in branches included."""
    found: list[str] = []

    def walk(graph: Any) -> None:
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                walk(attribute.g)

    walk(translate(Region.whole(program)).model.graph)
    return found


def run(program: Program, leaves: Sequence[Any]) -> Sequence[Any]:
    return BACKENDS["onnxruntime"].lower(Region.whole(program)).run(*leaves)


def program_of(target: Any, *args: Any, **inputs: Any) -> Program:
    """A program of one operator; texts among the arguments name inputs."""
    builder = GraphBuilder(inputs)
    given = [builder.inputs[a] if isinstance(a, str) and a in builder.inputs else a for a in args]
    made = builder.call(target, *given)
    value = made.meta["val"]
    return builder.build(made if isinstance(value, torch.Tensor) else builder.call(getitem, made, 0))


@pytest.mark.parametrize("target", CASES, ids=str)
@settings(max_examples=4, phases=(Phase.explicit, Phase.generate))  # shrinking opens thousands of sessions
@given(data=st.data())
def test_operators_of_the_dialect_give_what_their_references_give(target: Any, data: st.DataObject) -> None:
    case: Case = CASES[target](data.draw)
    found = BACKENDS["onnxruntime"].lower(Region.whole(case.program))
    seed = data.draw(st.integers(0, 2**32), label="seed of inputs")
    for batch in BATCHES:
        leaves = case.leaves(batch, torch.Generator().manual_seed(seed + batch))
        with torch.no_grad():
            expected = References(case.program.module).run(*leaves)
        rounded = any(held.dtype in (torch.int8, torch.bfloat16) for held in case.program.state().values())
        rounded |= any(True in node.args for node in case.program.graph.nodes if "propagate" in str(node.target))
        for wanted, got in zip(expected, found.run(*leaves), strict=True):
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
            scale = float(wanted.abs().nan_to_num(0, 0, 0).max()) if wanted.numel() else 0.0
            near = 2e-2 if rounded else 2e-5
            torch.testing.assert_close(got, wanted, rtol=near, atol=near * max(scale, 1e-5), equal_nan=True)


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_reference_refuses_is_refused(why: str) -> None:
    program, leaves = refused(why)
    found = BACKENDS["onnxruntime"].lower(Region.whole(program))
    with pytest.raises(Exception, match=r"(?i)index|indice|bounds|outside"):
        found.run(*leaves)


def test_no_bag_becomes_a_loop() -> None:
    builder = GraphBuilder({"ids": (("n",), torch.int64), "offsets": (("batch",), torch.int64)})
    table = builder.state("table", torch.randn(7, 3))
    made = builder.call(
        _aten.embedding_bag.padding_idx, table, *builder.inputs.values(), False, 0, False, None, False, None
    )
    program = builder.build(builder.call(getitem, made, 0))
    assert not {"Loop", "Scan", "SequenceAt", "If"} & set(kinds(program))
    ids, offsets = torch.tensor([0, 6, 2, 2, 5]), torch.tensor([0, 0, 3, 5])
    torch.testing.assert_close(list(run(program, [ids, offsets])), program.run([ids, offsets]))
    for wrong in ([0, 3, 2, 5], [1, 2, 3, 4], [0, 0, 0, 6]):
        with pytest.raises(IdError):
            run(program, [ids, torch.tensor(wrong)])
    for bad in (-1, 7):
        with pytest.raises(IdError):
            run(program, [torch.tensor([0, bad, 1]), torch.tensor([0, 1])])


def test_bags_of_one_length_are_gathered_and_reduced() -> None:
    builder = GraphBuilder({"ids": (("batch", 3), torch.int64)})
    table = builder.state("table", torch.randn(7, 2))
    flat = builder.call(_aten.reshape.default, builder.inputs["ids"], [-1])
    size = builder.call(_aten.sym_size.int, flat, 0)
    offsets = builder.call(_aten.arange.start_step, 0, size, 3)
    made = builder.call(_aten.embedding_bag.padding_idx, table, flat, offsets, False, 1, False, None, False, None)
    program = builder.build(builder.call(getitem, made, 0))
    assert "ScatterND" not in kinds(program)
    ids = torch.randint(0, 7, (5, 3))
    torch.testing.assert_close(list(run(program, [ids])), program.run([ids]))


def test_int8_layers_multiply_whole_numbers() -> None:
    builder = GraphBuilder({"x": ("batch", 8)})
    codes = torch.randint(-127, 128, (4, 8), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    weight, scale = builder.state("weight", codes), builder.state("scale", torch.rand(4) + 0.1)
    layers = mlp.encode([mlp.Layer(0, scale=1, activation="relu")])
    program = builder.build(builder.call(mlp.mlp, builder.inputs["x"], [weight, scale], *layers))
    assert kinds(program).count("MatMulInteger") == 1
    rows = [torch.randn(8), torch.rand(8), torch.full((8,), 3e-39), torch.zeros(8), torch.full((8,), 1e30)]
    for odd in (float("inf"), float("-inf"), float("nan")):
        rows.append(torch.tensor([odd, *[1.0] * 7]))
    x = torch.stack(rows)
    torch.testing.assert_close(run(program, [x])[0], program.run([x])[0], rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("target", "args", "reason"),
    [
        (_aten.nonzero.default, ("x",), "no form"),
        (_aten.topk.default, ("x", 2), "equal elements"),
        (_aten.fft_rfft.default, ("x",), "no form"),
    ],
    ids=str,
)
def test_refusals_name_the_reason(target: Any, args: tuple[Any, ...], reason: str) -> None:
    builder = GraphBuilder({"x": ("batch", 4)})
    made = builder.call(target, *(builder.inputs["x"] if a == "x" else a for a in args))
    found = made if isinstance(made.meta["val"], torch.Tensor) else builder.call(getitem, made, 1)
    program = builder.build(found)
    with pytest.raises(Refusals, match=reason) as caught:
        translate(Region.whole(program))
    assert [node.name for node in caught.value.reasons] == [made.name]
    verdict = BACKENDS["onnxruntime"].supports(program)[made]
    assert not verdict
    assert reason in verdict.reason


def test_an_operator_without_a_translation_is_decomposed() -> None:
    program = program_of(_aten.glu.default, "x", x=("batch", 6))
    x = torch.randn(3, 6)
    torch.testing.assert_close(list(run(program, [x])), program.run([x]))


@pytest.mark.parametrize("length", [1, 200])
def test_the_recurrence_of_an_attention_gru_is_one_loop(length: int) -> None:
    torch.manual_seed(0)
    builder = GraphBuilder({"x": ("batch", length, 12), "a": ("batch", length), "h": ("batch", 4)})
    given = [builder.inputs["x"], builder.inputs["a"], builder.inputs["h"], builder.state("w", torch.randn(12, 4))]
    program = builder.build(builder.call(recurrent.attention_gru, *given, None))
    found = kinds(program)
    assert found.count("Scan") == 1
    assert len(found) < 40
    leaves = [torch.randn(3, length, 12), torch.rand(3, length), torch.randn(3, 4)]
    torch.testing.assert_close(list(run(program, leaves)), program.run(leaves))


@pytest.mark.parametrize("layer", ["gru", "lstm", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_keep_infinities_and_nan(layer: str, both: bool) -> None:
    torch.manual_seed(0)
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(layer, torch.nn.RNN)
    options = {} if layer in ("gru", "lstm") else {"nonlinearity": layer[4:]}
    module = kind(3, 4, 2, bidirectional=both, batch_first=True, **options).eval()
    builder = GraphBuilder({"x": ("batch", 5, 3), "h": (4 if both else 2, "batch", 4)})
    params = [builder.state(name, value.detach()) for name, value in module.named_parameters()]
    state = [builder.inputs["h"]] * 2 if layer == "lstm" else builder.inputs["h"]
    target = getattr(_aten, layer).input
    made = builder.call(target, builder.inputs["x"], state, params, True, 2, 0.0, False, both, True)
    program = builder.build(*[builder.call(getitem, made, at) for at in range(len(made.meta["val"]))])
    for special in (0.5, float("nan"), float("inf"), float("-inf")):
        x, h = torch.randn(3, 5, 3), torch.randn(4 if both else 2, 3, 4)
        x[1, 2, 0] = special
        for found, wanted in zip(run(program, [x, h]), program.run([x, h]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
