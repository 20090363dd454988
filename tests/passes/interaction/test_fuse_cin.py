"""fuse-cin: a layer of a compressed interaction network becomes one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, default_program, operators, program_of, run
from torch.nn import functional

from recfx.capture import capture
from recfx.ir import Exactness, verify_numeric
from recfx.ops.cin import cin
from recfx.ops.mlp import decode

M, H, D, O = 4, 3, 5, 6  # noqa: E741
X = (torch.randn(3, M, D),)
XY = (torch.randn(3, M, D), torch.randn(3, H, D))
GONE = {"aten.mul.Tensor": 0, "aten.conv1d": 0, "aten.matmul": 0, "aten.einsum": 0, "recfx.cin": 1}


def case(body: Callable[..., Any], inputs: tuple[torch.Tensor, ...] = XY, fired: int = 1, **state: Any) -> Case:
    return Case(lambda: Function(body, **state), inputs, fired, GONE)


def conv(inputs: int, **how: Any) -> torch.nn.Module:
    return torch.nn.Conv1d(inputs, O, 1, **how)


def outer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As in torch-rechub and deepctr-torch's ancestors: [B, M * H, D]."""
    return (x.unsqueeze(2) * y.unsqueeze(1)).reshape(x.shape[0], x.shape[1] * y.shape[1], x.shape[2])


def letters(x: torch.Tensor, y: torch.Tensor, equation: str = "bhd,bmd->bhmd") -> torch.Tensor:
    """As in deepctr-torch, fuxictr and recbole."""
    return torch.einsum(equation, x, y).view(x.shape[0], -1, x.shape[2])


FIRES = {
    "torch-rechub": case(lambda m, x, y: functional.relu(m.c(outer(x, y))), fired=2, c=conv(M * H)),
    "deepctr-torch": case(lambda m, x: torch.relu(m.c(letters(x, x))), X, 2, c=conv(M * M)),
    "fields with themselves": case(lambda m, x: m.c(letters(x, x)), X, 2, c=conv(M * M)),
    "fuxictr": case(lambda m, x, y: m.c(letters(x, y)).view(x.shape[0], -1, D).sum(-1), c=conv(M * H)),
    "recbole": case(
        lambda m, x, y: functional.conv1d(letters(x, y, "bmd,bhd->bhmd"), m.w, m.b).sigmoid(), fired=2,
        w=torch.randn(O, M * H, 1), b=torch.randn(O),
    ),
    "the paper's matrix": case(
        lambda m, x, y: m.w @ (x[:, :, None] * y[:, None]).flatten(1, 2), w=torch.randn(O, M * H)
    ),
    "with a bias": case(
        lambda m, x, y: m.w @ outer(x, y) + m.b[:, None], fired=2, w=torch.randn(O, M * H), b=torch.randn(O)
    ),
    "a matrix for the batch": case(lambda m, x, y: torch.matmul(m.w, outer(x, y)), w=torch.randn(1, O, M * H)),
    "bmm": case(lambda m, x, y: torch.bmm(m.w.expand(x.shape[0], -1, -1), outer(x, y)), w=torch.randn(1, O, M * H)),
    "linear": case(lambda m, x, y: m.l(outer(x, y).mT).relu(), fired=2, l=torch.nn.Linear(M * H, O)),
    "linear, back": case(lambda m, x, y: m.l(outer(x, y).transpose(1, 2)).mT, l=torch.nn.Linear(M * H, O)),
    "matmul from the right": case(lambda m, x, y: outer(x, y).mT @ m.w, w=torch.randn(M * H, O)),
    "columns first": case(
        lambda m, x, y: (x.mT[..., None] @ y.mT[:, :, None]).flatten(2) @ m.w, w=torch.randn(M * H, O)
    ),
    "convolution over the plane": case(
        lambda m, x, y: functional.conv2d(outer(x, y).unsqueeze(3), m.w), w=torch.randn(O, M * H, 1, 1)
    ),
    "expanded": case(
        lambda m, x, y: m.c((x.unsqueeze(2).expand(-1, -1, H, -1) * y.unsqueeze(1)).flatten(1, 2)), c=conv(M * H)
    ),
    "einsum with the weight": case(
        lambda m, x, y: torch.einsum("bhmd,ohm->bod", x[:, :, None] * y[:, None], m.w), w=torch.randn(O, M, H)
    ),
    "einsum over one letter": case(lambda m, x, y: torch.einsum("bkd,ok->bdo", outer(x, y), m.w), w=torch.randn(O, M * H)),
    "einsum of three": case(
        lambda m, x, y: torch.einsum("bhd,bmd,mho->bod", x, y, m.w), w=torch.randn(H, M, O)
    ),
    "tensordot": case(
        lambda m, x, y: torch.tensordot(x[:, :, None] * y[:, None], m.w, ([1, 2], [1, 2])), w=torch.randn(O, M, H)
    ),
    "tensordot in another order": case(
        lambda m, x, y: torch.tensordot(x[:, :, None] * y[:, None], m.w, ([2, 1], [0, 1])), w=torch.randn(H, M, O)
    ),
    "tanh-GELU": case(
        lambda m, x, y: functional.gelu(m.c(outer(x, y)), approximate="tanh"), fired=2, c=conv(M * H, bias=False)
    ),
    "SiLU": case(lambda m, x, y: functional.silu(m.c(outer(x, y))), fired=2, c=conv(M * H)),
    "leaky ReLU": case(lambda m, x, y: functional.leaky_relu(m.c(outer(x, y)), 0.2), fired=2, c=conv(M * H)),
    "PReLU": case(lambda m, x, y: m.p(m.c(outer(x, y))), fired=2, c=conv(M * H), p=torch.nn.PReLU()),
}  # fmt: skip

LEAVES_ALONE = {
    "the product is read elsewhere": (
        lambda m, x, y: (lambda z: m.c(z) + z.sum())(outer(x, y)), {"c": conv(M * H)}, "read elsewhere"
    ),
    "a wider window": (lambda m, x, y: m.c(outer(x, y)), {"c": torch.nn.Conv1d(M * H, O, 3, padding=1)}, None),
    "strides": (lambda m, x, y: m.c(outer(x, y)), {"c": torch.nn.Conv1d(M * H, O, 1, stride=2)}, None),
    "padding": (lambda m, x, y: m.c(outer(x, y)), {"c": torch.nn.Conv1d(M * H, O, 1, padding=1)}, None),
    "groups": (lambda m, x, y: m.c(outer(x, y)), {"c": torch.nn.Conv1d(M * H, O, 1, groups=2)}, None),
    "products within a map": (lambda m, x, y: m.c(x * x), {"c": torch.nn.Conv1d(M, O, 1)}, None),
    "an outer sum": (
        lambda m, x, y: m.c((x.unsqueeze(2) + y.unsqueeze(1)).flatten(1, 2)), {"c": conv(M * H)}, None
    ),
    "a weight that varies": (lambda m, x, y: x[0, :1, :1] * torch.ones(O, M * H) @ outer(x, y), {}, None),
    "a sum over the columns": (
        lambda m, x, y: torch.einsum("bhmd,ohd->bom", x[:, :, None] * y[:, None], m.w), {"w": torch.randn(O, M, D)}, None
    ),
    "a reshape across the columns": (
        lambda m, x, y: m.w @ (x[:, :, None] * y[:, None]).reshape(-1, M, H * D), {"w": torch.randn(O, M)}, None
    ),
}  # fmt: skip

_VECTORS = {"w": torch.randn(O, M * H), "b": torch.randn(O, 1)}

#: Layers that become one operator, followed by an addition or a PReLU that stays an operator of its own.
STAYS_OUTSIDE = {
    "a bias of each column": (lambda m, x, y: m.w @ outer(x, y) + m.b, _VECTORS | {"b": torch.randn(D)}),
    "PReLU of each output": (
        lambda m, x, y: functional.prelu(m.w @ outer(x, y), m.p), _VECTORS | {"p": torch.rand(O)}
    ),
    "a second bias": (lambda m, x, y: m.c(outer(x, y)) + m.b, {"c": conv(M * H), "b": torch.randn(O, 1)}),
    "a second bias in front": (lambda m, x, y: m.b + m.c(outer(x, y)), {"c": conv(M * H), "b": torch.randn(O, 1)}),
    "a bias behind an activation": (lambda m, x, y: (m.w @ outer(x, y)).relu() + m.b, _VECTORS),
    "a layer that is read without its bias": (
        lambda m, x, y: (lambda z: (z + m.b, z.exp()))(m.w @ outer(x, y)), _VECTORS
    ),
    "a bias of other numbers": (
        lambda m, x, y: m.w @ outer(x, y) + m.b, _VECTORS | {"b": torch.randn(O, 1, dtype=torch.float16)}
    ),
    "a bias of each output and column": (lambda m, x, y: m.w @ outer(x, y) + m.b, _VECTORS | {"b": torch.randn(O, D)}),
    "a scaled bias": (lambda m, x, y: torch.add(m.w @ outer(x, y), m.b, alpha=2), _VECTORS),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-cin", FIRES[name], Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, state, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-cin", Case(lambda: Function(body, **state), XY, reason=reason))


@pytest.mark.parametrize("name", STAYS_OUTSIDE)
def test_what_stays_behind_a_layer(name: str) -> None:
    body, state = STAYS_OUTSIDE[name]
    program = program_of(Case(lambda: Function(body, **state), XY))
    result = run("fuse-cin", program).program
    found = operators(result)
    assert found["recfx.cin"] == 1
    assert found["aten.add.Tensor"] + found["aten.prelu"] == 1
    verify_numeric(program, result, Exactness.REASSOC)


@pytest.mark.parametrize("shape", [(O, 1), (1, O, 1)])
@pytest.mark.parametrize("front", [False, True])
def test_a_bias_on_either_side_joins_the_layer(shape: tuple[int, ...], front: bool) -> None:
    def body(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        layer = m.w @ outer(x, y)
        return (m.b + layer if front else layer + m.b).relu()

    state = {"w": torch.randn(O, M * H), "b": torch.randn(shape)}
    program = program_of(Case(lambda: Function(body, **state), XY))
    result = run("fuse-cin", program).program
    assert operators(result)["recfx.cin"] == 1
    assert not operators(result)["aten.add.Tensor"] + operators(result)["aten.relu"]
    verify_numeric(program, result, Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    names = ("torch-rechub", "deepctr-torch", "with a bias", "linear", "columns first", "einsum of three", "tensordot")
    check_near_misses("fuse-cin", [program_of(FIRES[name]) for name in names], Exactness.REASSOC)


def test_products_of_fields_with_themselves_are_taken_once() -> None:
    program = program_of(FIRES["fields with themselves"])
    (node,) = run("fuse-cin", program).program.graph.find_nodes(op="call_function", target=cin)
    assert node.args[5] is True
    assert tuple(node.args[2][0].meta["val"].shape) == (O, M * (M + 1) // 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_fields_are_the_second_factor_of_every_layer(transposed: bool) -> None:
    """Layers whose maps stand on the other side of the outer product have their weights reordered."""

    def network(m: Any, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(m.a(outer(x, x)))
        return m.b(outer(x, first) if transposed else outer(first, x)).sum(2)

    state = {"a": conv(M * M), "b": torch.nn.Conv1d(O * M, 2, 1)}
    program = program_of(Case(lambda: Function(network, **state), X))
    result = run("fuse-cin", program).program
    last = list(result.graph.find_nodes(op="call_function", target=cin))[-1]
    assert last.args[0].op == "placeholder"
    assert last.args[1].target is cin
    verify_numeric(program, result, Exactness.REASSOC)


def test_layers_that_share_a_weight_share_its_new_form() -> None:
    w = torch.nn.Parameter(torch.randn(M, M * M))

    def network(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (m.w @ outer(x, x)).sum(2) + (m.v @ outer(y, y)).sum(2) + (m.w @ outer(m.w @ outer(x, x), x)).sum(2)

    inputs = (torch.randn(3, M, D), torch.randn(3, M, D))
    program = program_of(Case(lambda: Function(network, w=w, v=w), inputs))
    result = run("fuse-cin", program).program
    reads = {str(n.args[2][0].target) for n in result.graph.find_nodes(op="call_function", target=cin)}
    assert operators(result)["recfx.cin"] >= 3
    assert len(reads) == 2  # of all products, and of a triangle
    verify_numeric(program, result, Exactness.REASSOC)


def test_a_batch_of_one_and_fixed_batches() -> None:
    model = FIRES["torch-rechub"].model()
    for rows in (1, 2):
        inputs = tuple(t[:rows] for t in XY)
        program = capture(model, inputs)
        result = run("fuse-cin", program).program
        assert operators(result)["recfx.cin"] == 1
        verify_numeric(program, result, Exactness.REASSOC)


def test_models_of_the_zoo() -> None:
    program = default_program("XDeepFM", 4)
    result = run("fuse-cin", program).program
    assert operators(result)["recfx.cin"] == 3
    assert operators(result)["aten.matmul"] == 0
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_any_order_of_dimensions_becomes_one_operator(data: st.DataObject) -> None:
    """An einsum with any order of the letters in operands, weight and result; the batch stays first."""
    first, second = (f"b{''.join(data.draw(st.permutations(rest)))}" for rest in ("hd", "md"))
    weight = "".join(data.draw(st.permutations("ohm")))
    result = f"b{''.join(data.draw(st.permutations('od')))}"
    sizes = {"b": 3, "h": 2, "m": 4, "d": 5, "o": 3}
    shapes = [tuple(sizes[x] for x in part) for part in (first, second)]
    operands = [torch.randn(shape) for shape in shapes]
    equation = f"{first},{second},{weight}->{result}"
    activation = data.draw(st.booleans())

    def body(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = torch.einsum(equation, x, y, m.w)
        return found.relu() if activation else found

    w = torch.randn(tuple(sizes[x] for x in weight))
    program = program_of(Case(lambda: Function(body, w=w), tuple(operands)))
    result_program = run("fuse-cin", program).program
    (node,) = result_program.graph.find_nodes(op="call_function", target=cin)
    assert decode(node.args[3], node.args[4])[0].activation == ("relu" if activation else "none")
    verify_numeric(program, result_program, Exactness.REASSOC)
