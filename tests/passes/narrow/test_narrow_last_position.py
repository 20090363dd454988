"""narrow-last-position: an encoder computes only the position that is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, check_does_not_fire, check_fires, operators, program_of, run
from torch import Tensor, nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.ir import Exactness, verify_numeric
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline
from recfx.testing import assert_pass_preserves
from recfx.zoo import MODELS

L, D = 6, 8
IDS = (torch.randint(1, 20, (4, L), generator=torch.Generator().manual_seed(0)),)


def last_of(ids: Tensor) -> Tensor:
    return ((ids != 0).sum(1) - 1).clamp(min=0)


READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "[:, -1]": lambda h, ids: h[:, -1],
    "[:, -1:]": lambda h, ids: h[:, -1:],
    "[:, 2]": lambda h, ids: h[:, 2],
    "behind a dropped dimension": lambda h, ids: (h[:, :, None] * 1.5).squeeze(2)[:, -1],
    "behind a selected dimension": lambda h, ids: (h[:, None] * 1.5).select(1, 0)[:, -1],
    "gather": lambda h, ids: h.gather(1, last_of(ids)[:, None, None].expand(-1, -1, D)).squeeze(1),
    "index": lambda h, ids: h[torch.arange(ids.shape[0]), last_of(ids)],
    "index from the end": lambda h, ids: h[torch.arange(ids.shape[0]), last_of(ids) - L],
}


class Encoder(nn.Module):
    """A transformer encoder over ids; `read` selects one position."""

    def __init__(
        self, read: Callable[[Tensor, Tensor], Tensor], kind: str, *, heads: int = 2, norm_first: bool = False
    ):
        super().__init__()
        self.read, self.kind = read, kind
        self.items, self.positions = nn.Embedding(20, D), nn.Parameter(torch.randn(L, D))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(D, heads, 12, batch_first=True, activation="gelu", norm_first=norm_first)
            for _ in range(2)
        )
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.heads = heads
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        h = self.items(ids) + self.positions
        masks = {
            "plain": {},
            "padding mask": {"src_key_padding_mask": ids == 0},
            "causal mask": {"src_mask": torch.ones(L, L, dtype=torch.bool).triu(1)},
        }
        if self.kind in masks:
            for block in self.blocks:
                h = block(h, **masks[self.kind])
        else:
            q, k, v = (p(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.kind == "causal flag")
            h = F.gelu(h + mixed.transpose(1, 2).flatten(2))
        return self.read(h, ids)


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        *((read, "causal flag") for read in READS),
        *(("gather", kind) for kind in ("plain", "padding mask", "causal mask", "unmasked")),
        *(("[:, -1]", kind) for kind in ("plain", "padding mask", "causal mask")),
    ],
)
def test_fires(read: str, kind: str) -> None:
    torch.manual_seed(0)
    program = capture(Encoder(READS[read], kind), IDS)
    program = Pipeline("canonicalize,fold-constants,merge-duplicates").run(program).program
    result = run("narrow-last-position", program)
    assert result.records[0].fired >= 1, (result.records[0].misses, str(program))
    verify_numeric(program, result.program, Exactness.REASSOC)
    shapes = [n.meta["val"].shape for n in result.program.graph.nodes if "attention" in str(n.target)]
    assert shapes[-1][-2] == 1  # one query
    assert all(s[-2] == L for s in shapes[:-1])  # only in the last block
    assert run("narrow-last-position", result.program).records[0].fired == 0


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_packed_projection_is_unpacked(norm_first: bool) -> None:
    program = capture(Encoder(READS["[:, -1]"], "plain", norm_first=norm_first), IDS)
    result = run("narrow-last-position", Pipeline("canonicalize").run(program).program)
    packed = [n for n in result.program.graph.nodes if str(n.target).endswith("in_proj_weight")]
    assert len(packed) == 1  # the first block's; the second has three linears of its own
    assert [a.rule for a in result.rewrites] == ["narrow", "unpack"]
    verify_numeric(program, result.program, Exactness.REASSOC)


def body(function: Callable[..., Any], **state: Any) -> Case:
    torch.manual_seed(0)
    x = torch.randn(3, L, D)
    return Case(lambda: Function(function, a=nn.Linear(D, 5), n=nn.LayerNorm(D), **state), (x,))


FIRES = {
    "linear": lambda m, x: m.a(x)[:, -1],
    "two reads of one position": lambda m, x: torch.cat([m.a(x)[:, -1], m.a(x)[:, -1:].squeeze(1).exp()], 1),
    "norm and residual": lambda m, x: (x + m.n(x))[:, 0],
    "flattened rows": lambda m, x: m.a(x.reshape(-1, D)).view(-1, L, 5)[:, 3],
    "softmax over features": lambda m, x: torch.softmax(m.a(x), -1)[:, 1],
    "sum over features": lambda m, x: torch.stack([m.a(x).sum(2), m.n(x).sum(2)], 2)[:, 1],
    "part of a split": lambda m, x: m.a(x).split([2, 3], 2)[1][:, 1],
    "other dimension": lambda m, x: m.a(x.transpose(0, 1))[-1],
}


@pytest.mark.parametrize("name", FIRES)
def test_fires_on(name: str) -> None:
    case = body(FIRES[name])
    program = Pipeline("canonicalize,merge-duplicates").run(program_of(case)).program
    result = run("narrow-last-position", program)
    assert result.records[0].fired == 1, (result.records[0].misses, str(program))
    verify_numeric(program, result.program, Exactness.REASSOC)
    linears = [n for n in result.program.graph.nodes if str(n.target) == "aten.linear.default"]
    assert all(1 in n.meta["val"].shape for n in linears)


LEAVES_ALONE = {
    "all positions are read too": lambda m, x: (lambda h: torch.cat([h[:, -1], h.mean(1)], 1))(m.a(x)),
    "two positions": lambda m, x: (lambda h: h[:, -1] + h[:, 0])(m.a(x)),
    "softmax over positions": lambda m, x: torch.softmax(m.a(x), 1)[:, -1],
    "mean over positions": lambda m, x: x.cumsum(1)[:, -1],
    "an input": lambda m, x: x[:, -1],
    "elementwise alone": lambda m, x: torch.relu(x)[:, -1],
    "a feature, no position": lambda m, x: m.a(x)[:, :, 2].contiguous().exp(),
    "two positions in a slice": lambda m, x: m.a(x)[:, -2:],
}


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    program = Pipeline("canonicalize").run(program_of(body(LEAVES_ALONE[name]))).program
    result = run("narrow-last-position", program)
    assert result.records[0].fired == 0, str(result.program)


def test_says_why() -> None:
    check_does_not_fire(
        "narrow-last-position",
        Case(
            body(LEAVES_ALONE["two positions"]).model, (torch.randn(3, L, D),), reason="would narrow no costly operator"
        ),
    )


def test_tied_weights_stay_tied() -> None:
    case = body(lambda m, x: m.a(x)[:, -1] + m.a(x.cumsum(1)).sum(1))
    after = check_fires("narrow-last-position", Case(case.model, case.inputs, 1, {"aten.linear": 2}), Exactness.REASSOC)
    assert len(after.state()) == 2


def test_sasrec_computes_one_row_of_its_last_block() -> None:
    torch.manual_seed(0)
    model = MODELS["sasrec"].small().eval()  # type: ignore[attr-defined]
    before = (
        Pipeline("canonicalize,fold-constants,merge-duplicates").run(capture(model, model.example_inputs(5))).program
    )
    result = run("narrow-last-position", before)
    verify_numeric(before, result.program, Exactness.REASSOC)
    wide = [
        n for n in result.program.graph.nodes if str(n.target) == "aten.linear.default" and n.meta["val"].shape[1] > 1
    ]
    assert len(wide) == 5 + 2  # the first block's five, keys and values of the second


def test_bst_reads_all_positions_and_is_left_alone() -> None:
    model = MODELS["bst"].small().eval()  # type: ignore[attr-defined]
    result = Pipeline(DEFAULT_PIPELINE).run(capture(model, model.example_inputs(5)))
    (record,) = [r for r in result.records if r.text == "narrow-last-position"]
    assert record.fired == 0


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["plain", "padding mask", "causal mask", "causal flag"]),
    read=st.sampled_from(sorted(READS)),
    heads=st.sampled_from([1, 2, 4]),
    norm_first=st.booleans(),
    batch=st.integers(2, 5),
)
def test_any_encoder_stays_within_rounding(
    seed: int, kind: str, read: str, heads: int, norm_first: bool, batch: int
) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(1, 20, (batch, L))
    program = capture(Encoder(READS[read], kind, heads=heads, norm_first=norm_first), (ids,), check=False)
    result = Pipeline("canonicalize,narrow-last-position").run(program)
    assert result.records[1].fired >= 1
    verify_numeric(program, result.program, Exactness.REASSOC)


def test_random_graphs() -> None:
    assert_pass_preserves("narrow-last-position", max_examples=15)


def test_operators_of_the_result_are_fewer_rows_not_more_operators() -> None:
    program = program_of(body(lambda m, x: F.gelu(m.a(m.n(x)))[:, -1]))
    result = run("narrow-last-position", program)
    assert sum(operators(result.program).values()) <= sum(operators(program).values()) + 1
