"""quantize-embeddings: scores over a few bits per column."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, lower, needs_kernels
from pass_cases import Function, few_models, run
from score_cases import DIM, FIRES, LEAVES_ALONE, calls, check, prepared
from torch import nn

from recfx.capture import capture
from recfx.errors import InputError
from recfx.formats.code_fit import best_codes, minmax_codes, symmetric_codes
from recfx.formats.code_rows import unpack_codes
from recfx.formats.rotations import random_rotation
from recfx.ir import same_graph
from recfx.learn import make_quantizer
from recfx.passes import QuantizeEmbeddings
from recfx.pipeline import Pipeline

#: The models that run without torch: it selects the best items, and moves the batch out of the first dimension.
LOWERED = [n for n in FIRES if not any(word in n for word in ("best", "turned", "one query"))]


def rounded(bits: int, method: str, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The values of a method's codes, in the rotated space."""
    if method == "rotation":
        return best_codes(table @ random_rotation(DIM), bits).values(), random_rotation(DIM)
    codes = {"rows": best_codes, "symmetric-rows": symmetric_codes, "minmax-rows": minmax_codes}[method]
    return codes(table, bits).values(), None


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    program = check(QuantizeEmbeddings(), FIRES[name], lambda t: rounded(8, "rows", t))
    assert all((n.args[3], n.args[4]) == (8, 8) for n in calls(program))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("method", ["rows", "symmetric-rows", "minmax-rows", "rotation"])
@pytest.mark.parametrize("query_bits", [8, 4, 1])
@pytest.mark.parametrize("name", ["candidates", "the whole catalogue by linear"])
def test_methods(bits: int, method: str, query_bits: int, name: str) -> None:
    check(QuantizeEmbeddings(bits, method, query_bits), FIRES[name], lambda t: rounded(bits, method, t))


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    given_case, reason = LEAVES_ALONE[name]
    program = prepared(given_case)
    result = run("quantize-embeddings{bits=2}", program)
    assert result.records[0].fired == 0
    assert same_graph(program, result.program) is None
    assert any(reason in miss.reason for miss in result.records[0].misses), result.records[0].misses


@needs_kernels
@pytest.mark.parametrize("name", LOWERED)
def test_the_kernels_compute_what_the_pass_writes(name: str) -> None:
    result = run(QuantizeEmbeddings(4), prepared(FIRES[name])).program
    for level in LEVELS:
        lowered = lower(result, level)
        for batch in (4, 1):
            inputs = tuple(x[:batch] for x in FIRES[name].inputs)
            want, got = result.module(*inputs), lowered(*inputs)
            for a, b in zip(torch.utils._pytree.tree_leaves(want), got, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@few_models
@given(
    st.integers(0, 2**32), st.integers(9, 140), st.sampled_from([8, 4, 2]), st.sampled_from(["ste", "gste", "lsq"]),
    st.sampled_from(["per-row", "ema-minmax"]),
)  # fmt: skip
def test_trained_codes_are_packed_as_they_are(seed: int, dim: int, bits: int, estimator: str, bounds: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    quantizer = make_quantizer(bits, estimator, bounds, dim=dim)
    table = torch.randn(15, dim, generator=rng)
    quantizer(table)
    trained = quantizer.eval().table(table)
    items = nn.Embedding.from_pretrained(trained.dequantize())
    model = Function(lambda m, u: m.u(u) @ m.i.weight.T, u=nn.Embedding(9, dim), i=items)
    result = Pipeline([QuantizeEmbeddings(bits, "rotation")]).run(capture(model, (torch.arange(9),))).program
    (call,) = calls(result)
    held = unpack_codes(result.state()[call.args[1].target], bits, dim)
    assert len(result.state()) == 2  # no rotation: the codes are the trained codes
    assert bool(((held.values() - items.weight).abs() <= 2e-6 * items.weight.abs().max()).all())
    used = trained.codes.int() - trained.codes.amin(1, keepdim=True).int()
    full = held.codes.amax(1) == used.amax(1)  # a row may use only every other level
    assert bool(full.any()) or dim < 40
    assert torch.equal(held.codes[full].int(), used[full])


@few_models
@given(
    st.integers(0, 2**32), st.integers(9, 130), st.sampled_from([8, 4, 2]), st.sampled_from(["minmax-rows", "rotation"]),
    st.sampled_from([8, 4]), st.integers(-12, 12),
)  # fmt: skip
def test_scores_are_no_further_off_than_half_steps_allow(
    seed: int, dim: int, bits: int, method: str, query_bits: int, exponent: int
) -> None:
    """|q x - q' x'| <= sum |q| step / 2 + scale / 2 sum |x'|: half a step of each item and half a scale of each query."""
    rng = torch.Generator().manual_seed(seed)
    users, items = torch.randn(7, dim, generator=rng) * 10.0**exponent, torch.randn(15, dim, generator=rng)
    model: Any = Function(
        lambda m, u: m.u(u) @ m.i.weight.T, u=nn.Embedding.from_pretrained(users), i=nn.Embedding.from_pretrained(items)
    )
    item = QuantizeEmbeddings(bits, method, query_bits)
    found = Pipeline([item]).run(capture(model, (torch.arange(7),))).program.module(torch.arange(7))[0].double()
    rotation = random_rotation(dim) if method == "rotation" else torch.eye(dim)
    q, x = users.double() @ rotation.double(), items.double() @ rotation.double()
    step = (x.amax(1) - x.amin(1)) / ((1 << bits) - 1)
    scale = q.abs().amax(1) / ((1 << (query_bits - 1)) - 1)
    left = x.abs().sum(1) + dim * step / 2  # the lengths of the rounded items
    bound = q.abs().sum(1)[:, None] * step / 2 + scale[:, None] / 2 * left
    room = 1e-5 * q.abs().sum(1)[:, None] * left
    assert bool(((found - users.double() @ items.double().T).abs() <= bound + room).all())


@pytest.mark.parametrize(
    "options",
    [{"bits": 1, "method": "symmetric-rows"}, {"bits": 3}, {"bits": 16}, {"method": "sign-rows"}, {"query_bits": 2}],
)
def test_options_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"does not exist|cannot have"):
        QuantizeEmbeddings(**options)


def test_options_survive_as_text() -> None:
    item = QuantizeEmbeddings(4, "rotation", query_bits=4, min_rows=100, seed=3)
    assert Pipeline(str(Pipeline([item]))).passes == (item,)
