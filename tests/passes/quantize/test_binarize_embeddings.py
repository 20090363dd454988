"""binarize-embeddings: scores over one bit per column."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Function, few_models, run
from score_cases import DIM, FIRES, LEAVES_ALONE, calls, case, check, prepared
from torch import nn

from recfx.capture import capture
from recfx.errors import InputError, PipelineError
from recfx.formats.code_fit import minmax_codes, sign_codes, unbiased_sign_codes
from recfx.formats.code_rows import unpack_codes
from recfx.formats.rotations import itq_rotation, random_rotation
from recfx.ir import same_graph
from recfx.learn import make_quantizer
from recfx.passes import BinarizeEmbeddings, QuantizeEmbeddings
from recfx.pipeline import Pipeline


def rounded(method: str, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The values of a method's codes, in the rotated space."""
    if method == "sign-rows":
        return sign_codes(table).values(), None
    if method == "minmax-rows":
        return minmax_codes(table, 1).values(), None
    if method == "itq":
        rotation = itq_rotation(table)
        return sign_codes(table @ rotation).values(), rotation
    rotation = random_rotation(DIM)
    return unbiased_sign_codes(table @ rotation).values(), rotation


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    program = check(BinarizeEmbeddings(), FIRES[name], lambda t: rounded("sign-rows", t))
    assert all((n.args[3], n.args[4]) == (1, 8) for n in calls(program))


@pytest.mark.parametrize("method", ["sign-rows", "rotation", "itq", "minmax-rows"])
@pytest.mark.parametrize("query_bits", [8, 4, 1])
@pytest.mark.parametrize("name", ["pairs", "candidates by bmm", "the whole catalogue"])
def test_methods(method: str, query_bits: int, name: str) -> None:
    check(BinarizeEmbeddings(method, query_bits), FIRES[name], lambda t: rounded(method, t))


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    given_case, reason = LEAVES_ALONE[name]
    program = prepared(given_case)
    result = run("binarize-embeddings", program)
    assert result.records[0].fired == 0
    assert same_graph(program, result.program) is None
    assert any(reason in miss.reason for miss in result.records[0].misses), result.records[0].misses


def test_few_rows_are_left_alone() -> None:
    (record,) = run(BinarizeEmbeddings(min_rows=14), prepared(FIRES["pairs"])).records
    assert record.fired == 0
    assert "only 13 row(s)" in record.misses[0].reason


def test_a_tied_table_is_packed_once() -> None:
    for name in ("a tied table", "two scores of one table"):
        result = run("binarize-embeddings", prepared(FIRES[name])).program
        assert len({n.args[1].target for n in calls(result)}) == 1
        assert sum(t.dtype is torch.uint8 for t in result.state().values()) == 1
        assert not any("i.weight" in key for key in result.state())  # the float table has no reader


def test_a_table_that_something_else_reads_stays() -> None:
    body = case(
        lambda m, i, c: (m.again(i)[:, None].tanh() * m.i(c)).sum(-1),
        *[torch.ones(4, dtype=torch.long), torch.ones(4, 5, dtype=torch.long)],
    )
    result = run("binarize-embeddings", prepared(body)).program
    assert len(calls(result)) == 1
    assert sorted(str(t.dtype) for t in result.state().values()) == ["torch.float32", "torch.uint8"]


@few_models
@given(
    st.integers(0, 2**32),
    st.integers(6, 140),
    st.sampled_from(["ste", "gste", "lsq"]),
    st.sampled_from(["per-row", "ema-minmax"]),
)
def test_trained_codes_are_packed_as_they_are(seed: int, dim: int, estimator: str, bounds: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    quantizer = make_quantizer(1, estimator, bounds, dim=dim)
    table = torch.randn(15, dim, generator=rng)
    quantizer(table)
    trained = quantizer.eval().table(table)
    users = nn.Embedding.from_pretrained(
        torch.randn(9, dim, generator=rng).sign()
    )  # one bit per column represents them exactly
    items = nn.Embedding.from_pretrained(trained.dequantize())
    model = Function(lambda m, u: m.u(u) @ m.i.weight.T, u=users, i=items)
    ids = torch.arange(9)
    for method in ("sign-rows", "rotation"):
        result = Pipeline([BinarizeEmbeddings(method, query_bits=1)]).run(capture(model, (ids,))).program
        (call,) = calls(result)
        held = unpack_codes(result.state()[call.args[1].target], 1, dim)
        mixed = trained.codes.amin(1) != trained.codes.amax(1)  # a constant row has that value, with another code
        assert torch.equal(held.codes[mixed], trained.codes[mixed])
        largest = trained.dequantize().abs().max()
        torch.testing.assert_close(result.module(ids), (model(ids),), rtol=0, atol=float(largest) * dim * 1e-6)


@few_models
@given(
    st.integers(0, 2**32), st.integers(4, 130), st.sampled_from(["sign-rows", "rotation", "itq"]), st.sampled_from([8, 4, 1]),
    st.integers(-12, 12),
)  # fmt: skip
def test_scores_are_no_further_off_than_the_roundings_allow(
    seed: int, dim: int, method: str, query_bits: int, exponent: int
) -> None:
    """|q x - q' x'| <= |q| |x - x'| + |q - q'| |x'|, with closed forms of both rounding errors."""
    rng = torch.Generator().manual_seed(seed)
    users, items = torch.randn(7, dim, generator=rng) * 10.0**exponent, torch.randn(15, dim, generator=rng)
    model: Any = Function(
        lambda m, u: m.u(u) @ m.i.weight.T, u=nn.Embedding.from_pretrained(users), i=nn.Embedding.from_pretrained(items)
    )
    program = Pipeline([BinarizeEmbeddings(method, query_bits)]).run(capture(model, (torch.arange(7),))).program
    found = program.module(torch.arange(7))[0].double()
    rotation = {"rotation": lambda: random_rotation(dim), "itq": lambda: itq_rotation(items)}.get(
        method, lambda: torch.eye(dim)
    )()
    q, x = users.double() @ rotation.double(), items.double() @ rotation.double()
    magnitudes, length = x.abs().sum(1), x.norm(dim=1)
    if method == "rotation":
        aligned = magnitudes / (length * dim**0.5)
        lost, left = length * (1 / aligned.square() - 1).clamp(min=0).sqrt(), length / aligned
    else:
        lost = (length.square() - magnitudes.square() / dim).clamp(min=0).sqrt()
        left = magnitudes / dim**0.5
    if query_bits == 1:
        query_lost = (q.square().sum(1) - q.abs().sum(1).square() / dim).clamp(min=0).sqrt()
    else:
        query_lost = q.abs().amax(1) / ((1 << (query_bits - 1)) - 1) / 2 * dim**0.5
    bound = q.norm(dim=1)[:, None] * lost + query_lost[:, None] * left
    room = 1e-5 * dim * q.norm(dim=1)[:, None] * left  # roundings of float32, here and in the rotation
    assert bool(((found - users.double() @ items.double().T).abs() <= bound + room).all())


@pytest.mark.parametrize("options", [{"method": "magic"}, {"query_bits": 2}, {"query_bits": 32}])
def test_options_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"does not exist|cannot have"):
        BinarizeEmbeddings(**options)


def test_options_survive_as_text() -> None:
    item = BinarizeEmbeddings("rotation", query_bits=4, min_rows=100, seed=3)
    assert Pipeline(str(Pipeline([item]))).passes == (item,)


@pytest.mark.parametrize("method", ["sign-rows", "rotation", "itq", "minmax-rows"])
@pytest.mark.parametrize("name", ["pairs", "the whole catalogue"])
def test_one_bit_of_quantize_embeddings_is_the_same_pass(method: str, name: str) -> None:
    program = prepared(FIRES[name])
    one = run(f"binarize-embeddings{{method={method}, seed=2}}", program).program
    same = run(f"quantize-embeddings{{bits=1, method={method}, seed=2}}", program).program
    assert same_graph(one, same) is None
    assert all(torch.equal(a, b) for a, b in zip(one.state().values(), same.state().values(), strict=True))


def test_its_bits_are_no_option() -> None:
    with pytest.raises(PipelineError, match="has no option bits"):
        Pipeline("binarize-embeddings{bits=4}")
    assert "bits" not in BinarizeEmbeddings().options()
    assert str(Pipeline("binarize-embeddings{query_bits=4}")) == "binarize-embeddings{query_bits=4}"


def test_rows_at_one_bit_are_signs() -> None:
    check(QuantizeEmbeddings(1), FIRES["pairs"], lambda t: rounded("sign-rows", t))
