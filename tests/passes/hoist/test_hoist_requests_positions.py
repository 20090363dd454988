"""hoist-requests: in a sequence of the request's and the candidate's positions, the request's are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hoist_cases import KEYS, PASS, QUERY, check, linear, narrow_share, shared
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels
from pass_cases import few_models, operators, run
from torch import Tensor, nn

import recfx
from recfx.passes import HoistRequests

aten = torch.ops.aten
LENGTH, D = KEYS.shape[1:]


def joined(keys: Tensor, query: Tensor) -> Tensor:
    """The history followed by the candidate, [B, L + 1, D]."""
    return torch.cat([keys, query.unsqueeze(1)], 1)


def attended(x: Tensor) -> Tensor:
    """Mixes the positions, so that no later operator depends only on the history."""
    return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def state() -> dict[str, Any]:
    torch.manual_seed(3)
    return {
        "a": linear(3, D), "b": linear(3, 3), "norm": nn.LayerNorm(D), "positions": nn.Parameter(torch.randn(LENGTH + 1, D)),
        "table": nn.Embedding(20, D), "scale": nn.Parameter(torch.randn(LENGTH + 1, 1)),
    }  # fmt: skip


SPLIT: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "a linear": lambda m, k, q: attended(m.a(joined(k, q))),
    "the candidate first": lambda m, k, q: attended(m.a(torch.cat([q.unsqueeze(1), k], 1))),
    "the candidate between": lambda m, k, q: attended(m.a(torch.cat([k[:, :3], q.unsqueeze(1), k[:, 3:]], 1))),
    "behind what all positions share": lambda m, k, q: attended(m.a(joined(k, q) * m.norm.weight + m.norm.bias)),
    "behind positions": lambda m, k, q: attended(m.a(joined(k, q) + m.positions)),
    "behind scaled positions": lambda m, k, q: attended(m.a(joined(k, q) * m.scale * 2)),
    "behind a norm": lambda m, k, q: attended(m.a(m.norm(joined(k, q)).relu())),
    "positions in front": lambda m, k, q: attended(m.a(joined(k, q).transpose(0, 1)).transpose(0, 1)),
    "permuted": lambda m, k, q: attended(m.a(joined(k, q).permute(1, 0, 2)).permute(1, 0, 2)),
    "of another shape": lambda m, k, q: attended(m.a(joined(k, q).unsqueeze(1)).squeeze(1)),
    "two linears": lambda m, k, q: attended(m.b(m.a(joined(k, q)).sigmoid())),
    "two readers": lambda m, k, q: (lambda x: attended(m.a(x)).sum(-1, keepdim=True) * x)(joined(k, q).exp()),
    "with a request's values too": lambda m, k, q: attended(m.a(joined(k, q) + k.sum(1, keepdim=True))),
    "with what the request says of each position": lambda m, k, q: attended(
        m.a(joined(k, q) + torch.cat([k, k[:, :1]], 1))
    ),
}
WHOLE: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "positions already mixed": lambda m, k, q: m.a(joined(k, q).softmax(1)),
    "summed as they come": lambda m, k, q: m.a(joined(k, q).cumsum(1)),
    "the candidate in every position": lambda m, k, q: m.a(joined(k, q) * q.unsqueeze(1)).sin(),
    "the candidate's columns": lambda m, k, q: m.a(joined(k, q) * q.sum(1)[:, None, None]).sin(),
    "a linear over the positions": lambda m, k, q: torch.nn.functional.linear(
        joined(k, q).transpose(1, 2), m.positions[:, :3].t()
    ),
    "no linear": lambda m, k, q: joined(k, q).exp() + m.positions,
}


def linears(program: Any) -> list[tuple[str, ...]]:
    return [
        tuple(map(str, n.args[0].meta["val"].shape)) for n in program.graph.nodes if n.target is aten.linear.default
    ]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("name", SPLIT)
def test_the_history_s_positions_are_computed_once(name: str, many: bool) -> None:
    program = shared(SPLIT[name], (KEYS, QUERY), many=many, **state())
    result = check(program)
    once, wide = narrow_share(result, aten.linear.default)
    assert once >= 1
    assert wide >= 1
    long = [sizes for sizes in linears(result) if "batch" in "".join(sizes) and str(LENGTH + 1) in sizes]
    assert not long, linears(result)


@pytest.mark.parametrize("name", WHOLE)
def test_sequences_that_are_left_whole(name: str) -> None:
    program = shared(WHOLE[name], (KEYS, QUERY), **state())
    result = check(program)
    assert narrow_share(result, aten.linear.default)[0] == 0


def test_ids_are_looked_up_apart() -> None:
    ids, item = torch.randint(1, 20, (5, LENGTH)), torch.randint(1, 20, (5,))
    program = shared(
        lambda m, k, q: attended(m.a(m.table(x := torch.cat([k, q[:, None]], 1)) * (x != 0).unsqueeze(-1))),
        (ids, item),
        **state(),
    )
    result = check(program)
    assert narrow_share(result, aten.embedding.default) == (1, 1)
    assert narrow_share(result, aten.linear.default) == (1, 1)


def test_tied_linears_stay_tied() -> None:
    program = shared(lambda m, k, q: attended(m.b(m.b(m.a(joined(k, q))))), (KEYS, QUERY), **state())
    result = check(program)
    assert {name for name in result.state() if name.startswith("b.")} == {"b.weight", "b.bias"}


def test_parts_of_one_side_stay_together() -> None:
    def body(m: Any, k: Tensor, q: Tensor) -> Tensor:
        fields = [k[:, i : i + 1] for i in range(4)] + [(q * i).unsqueeze(1) for i in range(5)]
        return attended(m.a(torch.cat(fields, 1)))

    result = check(shared(body, (KEYS, QUERY), **state()))
    assert narrow_share(result, aten.linear.default) == (1, 1)


def test_fields_that_take_turns_are_left_whole() -> None:
    def body(m: Any, k: Tensor, q: Tensor) -> Tensor:
        fields = [field for i in range(3) for field in (k[:, i : i + 1], (q * i).unsqueeze(1))]
        return attended(m.a(torch.cat(fields, 1)))

    program = shared(body, (KEYS, QUERY), **state())
    result = check(program)
    assert narrow_share(result, aten.linear.default) == (0, 1)
    assert "take turns 6 times" in str(run(PASS, program).records[0].misses)


def test_short_histories_are_not_worth_a_split() -> None:
    program = shared(SPLIT["a linear"], (KEYS, QUERY), **state())
    result = run(HoistRequests(least_columns=LENGTH * D + 1), program)
    assert narrow_share(result.program, aten.linear.default) == (0, 1)


class SmallBst(nn.Module):
    """A transformer layer over the history and the candidate; the model reads the candidate's position."""

    def __init__(self, dim: int = 8, length: int = 6) -> None:
        super().__init__()
        self.items = nn.Embedding(30, dim)
        self.positions = nn.Parameter(torch.randn(length + 1, dim))
        self.layer = nn.TransformerEncoderLayer(dim, 2, 16, 0.0, batch_first=True)
        self.out = nn.Linear(dim, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        sequence = torch.cat([self.items(history), self.items(item).unsqueeze(1)], 1) + self.positions
        out: Tensor = self.out(self.layer(sequence)[:, -1]).squeeze(1)
        return out


@needs_kernels
@pytest.mark.parametrize("target", ["eager", "native"])
def test_a_transformer_over_the_history(target: str) -> None:
    torch.manual_seed(0)
    model = SmallBst().eval()
    inputs = (torch.randint(0, 30, (4, 6)), torch.randint(0, 30, (4,)))
    fast = recfx.optimize(model, example_inputs=inputs, request_inputs=("history",), target=target, measure=False)
    for rows in (1, 2, 9):
        history, item = torch.randint(0, 30, (1, 6)), torch.randint(0, 30, (rows,))
        torch.testing.assert_close(fast(history, item), model(history.expand(rows, -1), item), rtol=1e-4, atol=1e-5)


@few_models
@given(
    seed=st.integers(0, 2**16),
    length=st.integers(1, 5),
    place=st.integers(0, 2),
    steps=st.lists(st.sampled_from(["linear", "positions", "norm", "relu", "turn"]), min_size=1, max_size=4),
    many=st.booleans(),
)
def test_any_position_wise_network_agrees(seed: int, length: int, place: int, steps: list[str], many: bool) -> None:
    torch.manual_seed(seed)
    held = {"w": linear(D, D), "n": nn.LayerNorm(D), "p": nn.Parameter(torch.randn(length + 1, D))}

    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        parts = (
            [keys[:, :place], query.unsqueeze(1), keys[:, place:]] if 0 < place < length else [keys, query.unsqueeze(1)]
        )
        x = torch.cat(parts, 1)
        for step in [*steps, "linear"]:
            if step == "turn":
                x = x.transpose(0, 1).exp().neg().transpose(0, 1)
            elif step == "positions":
                x = x + m.p
            else:
                x = {"linear": m.w, "norm": m.n, "relu": torch.relu}[step](x)
        return attended(x)

    rng = torch.Generator().manual_seed(seed)
    keys, query = torch.randn(5, length, D, generator=rng), torch.randn(5, D, generator=rng)
    result = check(shared(body, (keys, query), many=many, **held), PASS)
    assert narrow_share(result, aten.linear.default)[0] >= 1
    assert operators(result)["aten.cat"] >= 1
