"""fuse-mlp: linears and the operators between them become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, default_program, operators, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ops import mlp
from recfx.passes import FuseMlp

X = (torch.randn(3, 4),)
X3 = (torch.randn(3, 2, 4),)
ALIVE = {"aten.linear": 0, "recfx.mlp": 1}


def stack(*middle: nn.Module, inputs: tuple[torch.Tensor, ...] = X, width: int = 5) -> Case:
    return Case(lambda: nn.Sequential(nn.Linear(4, width), *middle, nn.Linear(width, 2)).eval(), inputs, 1, ALIVE)


def body(function: Callable[..., Any], *, fired: int = 1, inputs: tuple[torch.Tensor, ...] = X, **state: Any) -> Case:
    modules = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), **state}
    return Case(lambda: Function(function, **modules), inputs, fired, {"recfx.mlp": fired})


class DeepctrDice(nn.Module):
    """Dice as in deepctr-torch: over [B, C], or over [B, L, C] with the channels moved to the front."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width, eps=1e-8)
        nn.init.normal_(self.bn.weight)
        nn.init.normal_(self.bn.bias)
        self.bn.running_mean.normal_()  # type: ignore[union-attr]
        self.bn.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        self.dims = dims
        self.alpha = nn.Parameter(torch.randn(width, 1) if dims == 3 else torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2) if self.dims == 3 else x
        p = torch.sigmoid(self.bn(x))
        out = self.alpha * (1 - p) * x + p * x
        return out.transpose(1, 2) if self.dims == 3 else out


def zoo_dice(width: int) -> nn.Module:
    dice = zoo.layers.Dice(width)
    nn.init.normal_(dice.alpha)
    dice.norm.running_mean.normal_()  # type: ignore[union-attr]
    dice.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return dice


class RowDice(nn.Module):
    """Dice as in torch-rechub, with a gate that is normalised over each row."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(width))

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        avg = x.mean(dim=1).unsqueeze(dim=1)
        var = (torch.pow(x - avg, 2) + 1e-3).sum(dim=1).unsqueeze(dim=1)
        return torch.sigmoid((x - avg) / torch.sqrt(var))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.gate(x)
        return p * x + (1 - p) * self.alpha * x


class OtherRowDice(RowDice):
    """The same with another gate."""

    def __init__(self, gate: Callable[[torch.Tensor], torch.Tensor], width: int = 5) -> None:
        super().__init__(width)
        self.other = gate

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.other(x))


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


class NormDice(RowDice):
    """Dice with a LayerNorm that learns."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width, eps=1e-3)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.norm(x))


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x) * x


def stacked_apart(gate: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    """A gate other than Dice's separates the linears before and after it."""
    return Case(
        lambda: nn.Sequential(nn.Linear(4, 5), OtherRowDice(gate), nn.Linear(5, 2)).eval(), X, 2, {"recfx.mlp": 2}
    )


FIRES = {
    "linear alone": Case(lambda: nn.Linear(4, 5).eval(), X, 1, ALIVE),
    "two linears": stack(),
    "relu": stack(nn.ReLU()),
    "gelu": stack(nn.GELU()),
    "gelu tanh": stack(nn.GELU(approximate="tanh")),
    "silu": stack(nn.SiLU()),
    "x * sigmoid(x)": stack(Swish()),
    "sigmoid": stack(nn.Sigmoid()),
    "tanh": stack(nn.Tanh()),
    "leaky relu": stack(nn.LeakyReLU(0.2)),
    "prelu of one slope": stack(nn.PReLU()),
    "prelu per channel": stack(nn.PReLU(5, init=0.3)),
    "prelu of one slope, 3-D": stack(nn.PReLU(), inputs=X3),
    "dice": stack(zoo_dice(5)),
    "dice, 3-D": stack(zoo_dice(5), inputs=X3),
    "dice of deepctr-torch": stack(DeepctrDice(5, 2)),
    "dice of deepctr-torch, 3-D": stack(DeepctrDice(5, 3), inputs=X3),
    "dice of torch-rechub": stack(RowDice()),
    "two dices of torch-rechub": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), RowDice(), nn.Linear(5, 3), RowDice(), nn.Linear(3, 1)).eval(), X, 1, ALIVE
    ),
    "dice over rows, alpha per channel": stack(RowDice(5)),
    "dice over rows, variance": stack(
        OtherRowDice(lambda x: centred(x) / (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt())
    ),
    "dice over rows, unbiased variance": stack(
        OtherRowDice(lambda x: centred(x) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-3)), inputs=X3
    ),
    "dice over rows, mean of squares": stack(
        OtherRowDice(lambda x: centred(x) / (1e-3 + centred(x).square().mean(-1, keepdim=True)).sqrt()), inputs=X3
    ),
    "dice over rows, sum of squares": stack(
        OtherRowDice(lambda x: centred(x) / (((c := centred(x)) * c).sum(-1, keepdim=True) + 1e-3).sqrt())
    ),
    "dice over rows, layer norm": stack(NormDice(5), inputs=X3),
    "dice over rows, behind a norm": stack(nn.LayerNorm(5), RowDice()),
    "dice of RecBole": stack(OtherRowDice(lambda x: x)),
    "dropout": stack(nn.ReLU(), nn.Dropout(0.5)),
    "norm": stack(nn.LayerNorm(5), nn.ReLU()),
    "norm without weights": stack(nn.LayerNorm(5, elementwise_affine=False, eps=1e-3)),
    "3-D": stack(nn.ReLU(), inputs=X3),
    "clamp": body(lambda m, x: m.b(m.a(x).clamp(min=0))),
    "mm": body(lambda m, x: torch.relu(x.mm(m.w) + m.a.bias), w=nn.Parameter(torch.randn(4, 4))),
    "matmul": body(lambda m, x: torch.relu(x @ m.w) @ m.w, w=nn.Parameter(torch.randn(4, 4)), inputs=X3),
    "addmm": body(lambda m, x: torch.addmm(m.a.bias, x, m.w), w=nn.Parameter(torch.randn(4, 4))),
    "residual of the input": body(lambda m, x: x + m.b(torch.relu(m.a(x)))),
    "residual of a layer": body(lambda m, x: (lambda h: m.a(torch.tanh(m.b(h)) + h))(m.a(x).relu())),
    "tied weights": body(lambda m, x: m.a(torch.relu(m.a(x)))),
    "read elsewhere": body(lambda m, x: (lambda h: m.b(h).exp() + h)(torch.relu(m.a(x)).tanh()), fired=2),
    "linear read elsewhere": body(lambda m, x: (lambda h: m.b(torch.relu(h)) * h)(m.a(x)), fired=2),
    "several readers": body(lambda m, x: (lambda h: m.b(h) * m.a(h))(torch.relu(m.a(x))), fired=3),
    "another activation": body(lambda m, x: m.b(F.elu(m.a(x))), fired=2),
    "prelu along the second of three": body(
        lambda m, x: m.b(m.p(m.a(x))), fired=2, p=nn.PReLU(2), inputs=X3
    ),
    "norm over two dimensions": body(
        lambda m, x: m.b(F.layer_norm(m.a(x), (2, 4))), fired=2, inputs=X3
    ),
    "residual from outside": body(lambda m, x: m.b(m.a(x) + x.exp()), fired=2),
    "residual that broadcasts": body(lambda m, x: m.b(x) + m.c(x), fired=2, c=nn.Linear(4, 1)),
    "clamp elsewhere": body(lambda m, x: m.b(m.a(x).clamp(min=0.5)), fired=2),
    "gate over another axis": body(lambda m, x: m.b(gate_of_length(m, m.a(x))), fired=2, inputs=X3, n=nn.BatchNorm1d(2)),
    "gate of something else": body(lambda m, x: m.b((lambda h: h * torch.sigmoid(x))(m.a(x))), fired=2),
    "dice over columns": stacked_apart(lambda x: (x - x.mean(0, keepdim=True)) / (x.var(0, keepdim=True) + 1e-3).sqrt()),
    "dice with eps outside of the root": stacked_apart(lambda x: centred(x) / (x.var(-1, keepdim=True).sqrt() + 1e-3)),
    "dice of other means": stacked_apart(lambda x: (x - x.exp().mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-3).sqrt()),
    "dice of other deviations": stacked_apart(
        lambda x: centred(x) / ((x - 1).square().mean(-1, keepdim=True) + 1e-3).sqrt()
    ),
    "dice of fourth powers": stacked_apart(lambda x: centred(x) / (centred(x).pow(4).mean(-1, keepdim=True) + 1e-3).sqrt()),
    "wrong gate": body(lambda m, x: m.b(half_gate(m, m.a(x))), fired=2, n=nn.BatchNorm1d(4)),
}  # fmt: skip


def gate_of_length(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Like a Dice, but the batch norm's channels are the positions."""
    p = torch.sigmoid(m.n(x))
    return p * x + (1 - p) * m.a.bias * x


def half_gate(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Like a Dice, but the gate's complement is to 2."""
    p = torch.sigmoid(m.n(x))
    return p * x + (2 - p) * m.a.bias * x


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-mlp", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-mlp", map(program_of, FIRES.values()), Exactness.REASSOC)


LEAVES_ALONE = {
    "computed weight": (lambda m, x: F.linear(x, m.a.weight.exp() * x.sum()), X, "computed"),
    "computed bias": (lambda m, x: F.linear(x, m.a.weight, x.sum(0)), X, "bias is computed"),
    "one row": (lambda m, x: m.a(x.sum(0)), X, "1 dimension"),
    "batched product": (lambda m, x: torch.matmul(x, x.mT), X3, "computed"),
    "scaled bias": (lambda m, x: torch.addmm(m.a.bias, x, m.a.weight, beta=2), X, "scales"),
}


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    function, inputs, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-mlp", Case(lambda: Function(function, a=nn.Linear(4, 4)), inputs, reason=reason))


def test_leaves_other_dtypes_alone() -> None:
    case = Case(lambda: nn.Linear(4, 4).double().eval(), (torch.randn(3, 4).double(),), reason="float64")
    check_does_not_fire("fuse-mlp", case)


def test_short_chains_can_be_left_alone() -> None:
    check_does_not_fire(FuseMlp(at_least=2), Case(FIRES["linear alone"].model, X, reason="only 1"))
    check_fires(FuseMlp(at_least=2), FIRES["relu"], Exactness.REASSOC)


def layers_of(program: Program) -> list[list[mlp.Layer]]:
    calls = [n for n in program.graph.nodes if n.target is mlp.mlp]
    return [mlp.decode(n.args[2], n.args[3]) for n in calls]


def test_tied_weights_are_one_parameter() -> None:
    program = check_fires("fuse-mlp", FIRES["tied weights"], Exactness.REASSOC)
    ((first, second),) = layers_of(program)
    assert first.weight == second.weight
    assert first.bias == second.bias
    assert set(program.state()) == {"a.weight", "a.bias"}


def test_why_a_chain_ends_is_told() -> None:
    (record,) = run("fuse-mlp", program_of(FIRES["another activation"])).records
    assert any(m.rule == "longer-mlp" and "elu" in m.reason for m in record.misses)


@pytest.mark.parametrize(
    ("name", "chains"),
    [
        ("DLRM", [2, 3]),
        ("DeepFM", [3, 1]),
        ("DCNv2", [1, 1, 3]),
        ("XDeepFM", None),
        ("WideDeep", None),
        ("DIN", [3, 3]),
    ],
)
def test_models_of_the_zoo(name: str, chains: list[int] | None) -> None:
    program = default_program(name, 4)
    result = run("fuse-mlp", program)
    assert operators(result.program)["aten.linear"] == 0
    found = [len(layers) for layers in layers_of(result.program)]
    assert chains is None or found == chains
    verify_numeric(program, result.program, Exactness.REASSOC)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "row dice": lambda width: RowDice(width),
    "norm dice": lambda width: NormDice(width),
    "dice of itself": lambda width: OtherRowDice(lambda x: x, width),
    "none": lambda n: nn.Identity(),
    "relu": lambda n: nn.ReLU(),
    "gelu": lambda n: nn.GELU(),
    "silu": lambda n: nn.SiLU(),
    "prelu": lambda n: nn.PReLU(n, init=0.1),
    "leaky": lambda n: nn.LeakyReLU(0.3),
    "dice": zoo_dice,
    "norm": lambda n: nn.Sequential(nn.LayerNorm(n), nn.Tanh()),
}


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    plan=st.lists(
        st.tuples(st.sampled_from(sorted(ACTIVATIONS)), st.integers(1, 6), st.booleans()), min_size=1, max_size=4
    ),
)
def test_any_stack_becomes_one_operator(seed: int, plan: list[tuple[str, int, bool]]) -> None:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    width = 4
    for name, out, bias in plan:
        modules += [nn.Linear(width, out, bias=bias), ACTIVATIONS[name](out)]
        width = out
    program = capture(nn.Sequential(*modules).eval(), (torch.randn(3, 4),))
    result = run("fuse-mlp", program)
    assert operators(result.program) == {"recfx.mlp": 1}
    verify_numeric(program, result.program, Exactness.REASSOC)
