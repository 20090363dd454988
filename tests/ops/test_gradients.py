"""The gradients of the dialect's operators: which have one, and finite differences in float64 for those that do.

Integer and half-precision weights become float64 ones: rounding has no derivative that finite differences could show.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dialect_cases import CASES, Case
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats.code_rows import Codes, pack_codes
from recfx.ir.operators import DIALECT
from recfx.ir.run_graph import run_graph
from recfx.ops import (
    attention,
    cin,
    cross,
    decompose,
    hamming,
    interaction,
    lookup,
    mlp,
    propagation,
    ranking,
    recurrence,
    recurrent,
)
from recfx.ops.library import DECLARED, DECOMPOSITIONS, GRADIENTS, OF_REFERENCE
from recfx.testing import rec_graphs, tensors_for

#: Operator -> where its gradient comes from. A new operator is entered here.
TABLE = {
    attention.target_attention: OF_REFERENCE,
    cin.cin: OF_REFERENCE,
    cross.cross: OF_REFERENCE,
    interaction.dot_interaction: OF_REFERENCE,
    interaction.fm: OF_REFERENCE,
    lookup.grouped_lookup: OF_REFERENCE,
    mlp.mlp: OF_REFERENCE,
    recurrence.recurrence: OF_REFERENCE,
    recurrent.attention_gru: OF_REFERENCE,
    propagation.propagate: DECLARED,
    ranking.bpr: DECLARED,
    hamming.code_dot: "it rounds queries to integers and reads items of a few bits",
}
DIFFERENTIABLE = [target for target, origin in TABLE.items() if origin in (OF_REFERENCE, DECLARED)]


class Call:
    """One call of an operator as a function of its floating-point tensors, in float64."""

    def __init__(self, target: Any, case: Case, leaves: list[torch.Tensor]) -> None:
        self.target = target
        module = case.program.module
        (node,) = (n for n in case.program.graph.nodes if n.target is target)
        found: dict[Any, torch.Tensor] = {}

        def record(called: Any, args: Any, kwargs: Any) -> Any:
            if called is target:
                found["args"] = args
            return called(*args, **kwargs)

        with torch.no_grad():
            run_graph(module, leaves, call=record)
        self.flat, self.layout = torch.utils._pytree.tree_flatten(found["args"])
        self.places = [i for i, held in enumerate(self.flat) if self._trained(held)]
        assert node.op == "call_function"

    @staticmethod
    def _trained(held: Any) -> bool:
        if not isinstance(held, torch.Tensor):
            return False
        return held.is_floating_point() or held.dtype is torch.int8

    def inputs(self, seed: int) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        return [torch.randn(self.flat[i].shape, generator=g, dtype=torch.float64).requires_grad_() for i in self.places]

    def __call__(self, *given: torch.Tensor) -> Any:
        return self._run(self.target, given)

    def decomposed(self, *given: torch.Tensor) -> Any:
        return self._run(DECOMPOSITIONS[self.target], given)

    def _run(self, function: Any, given: Any) -> Any:
        flat = list(self.flat)
        for place, value in zip(self.places, given, strict=True):
            flat[place] = value
        results = function(*torch.utils._pytree.tree_unflatten(flat, self.layout))
        return results[0] if isinstance(results, tuple) else results  # bpr's other results are gradients themselves


def test_the_table_names_every_operator_of_the_dialect() -> None:
    assert TABLE == GRADIENTS
    assert set(TABLE) == set(DIALECT)


@pytest.mark.parametrize("target", [t for t in DIFFERENTIABLE if t is not propagation.propagate], ids=str)
@settings(max_examples=4)
@given(data=st.data())
def test_the_gradient_agrees_with_finite_differences(target: Any, data: st.DataObject) -> None:
    case = CASES[target](data.draw)
    seed = data.draw(st.integers(0, 2**32), label="seed")
    batch = data.draw(st.integers(1, 3), label="batch")
    call = Call(target, case, case.leaves(batch, torch.Generator().manual_seed(seed)))
    inputs = call.inputs(seed)
    if not inputs:
        return
    assert torch.autograd.gradcheck(call, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)
    results = [function(*inputs) for function in (call, call.decomposed)]
    if not any(result.requires_grad for result in results):
        return  # a quantised table, and factors that no feature reads
    first, second = (torch.autograd.grad(result.sum(), inputs, allow_unused=True) for result in results)
    for ours, plain in zip(first, second, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None and plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6), layers=st.integers(1, 3))
def test_propagation_has_the_gradient_of_a_product_with_a_symmetric_matrix(seed: int, rows: int, layers: int) -> None:
    g = torch.Generator().manual_seed(seed)
    graph = torch.rand(rows, rows, generator=g) < 0.5
    graph = graph | graph.T
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), graph.sum(1).cumsum(0)])
    neighbours, scale = graph.nonzero()[:, 1], torch.rand(rows, generator=g, dtype=torch.float64)
    weights = torch.rand(layers + 1, generator=g).tolist()
    x = torch.randn(rows, 2, generator=g, dtype=torch.float64).requires_grad_()
    matrix = scale[:, None] * graph * scale
    power, plain = x, weights[0] * x
    for weight in weights[1:]:
        power = matrix @ power
        plain = plain + weight * power
    found = propagation.propagate(x, offsets, neighbours, scale, weights)
    cotangent = torch.randn(rows, 2, generator=g, dtype=torch.float64)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(*(torch.autograd.grad((y * cotangent).sum(), x)[0] for y in (found, plain)))


def test_propagation_refuses_a_gradient_of_its_scale() -> None:
    x, scale = torch.randn(2, 1), torch.ones(2, requires_grad=True)
    offsets, neighbours = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
    with pytest.raises(InputError, match=r"no gradient with respect to its scale"):
        propagation.propagate(x, offsets, neighbours, scale, [0.5, 0.5])


def test_an_mlp_trains_as_the_modules_it_came_from() -> None:
    torch.manual_seed(1)
    plain = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.GELU(), torch.nn.Linear(7, 2))
    x = torch.randn(4, 5)
    params = list(plain.parameters())
    layers = [
        mlp.Layer(0, 1, activation="gelu", norm=True, norm_weight=2, norm_bias=3),
        mlp.Layer(4, 5),
    ]
    plain(x).square().sum().backward()
    wanted = [p.grad for p in params]
    plain.zero_grad()
    mlp.mlp(x, params, *mlp.encode(layers)).square().sum().backward()
    for name, ours, theirs in zip(dict(plain.named_parameters()), params, wanted, strict=True):
        assert theirs is not None
        torch.testing.assert_close(ours.grad, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_codes_refuse_a_gradient_and_run_without() -> None:
    items = pack_codes(Codes(torch.randint(2, (3, 8), dtype=torch.uint8), torch.zeros(3, 1), torch.ones(3, 1), 1))
    query = torch.randn(2, 8, requires_grad=True)
    with pytest.raises(InputError, match=r"code_dot.*has no gradient: it rounds queries"):
        hamming.code_dot(query, items, None, 1, 8).sum().backward()
    with torch.no_grad():
        assert hamming.code_dot(query, items, None, 1, 8).shape == (2, 3)
    assert hamming.code_dot(query.detach(), items, None, 1, 8).shape == (2, 3)


def test_an_int8_layer_refuses_a_gradient_of_its_input() -> None:
    codes, scale = torch.randint(-127, 128, (4, 8)).to(torch.int8), torch.ones(4)
    layers = mlp.encode([mlp.Layer(0, scale=1)])
    x = torch.randn(2, 8, requires_grad=True)
    with pytest.raises(InputError, match=r"int8 weights has no gradient"):
        mlp.mlp(x, [codes, scale], *layers).sum().backward()
    assert mlp.mlp(x.detach(), [codes, scale], *layers).shape == (2, 4)


def test_a_second_derivative_exists() -> None:
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: interaction.dot_interaction(v, None, False, False), x)


def test_compilers_that_trace_without_values_get_the_same_gradient() -> None:
    """AOTAutograd traces forward and backward passes on fake tensors."""
    from torch._functorch.aot_autograd import aot_function

    x = torch.randn(3, 4, 2, requires_grad=True)
    traced = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        traced.append(graph)
        return graph

    aot = aot_function(lambda v: interaction.fm(v, True), fw_compiler=keep, bw_compiler=keep)
    aot(x).sum().backward()
    found, x.grad = x.grad, None
    interaction.fm(x, True).sum().backward()
    torch.testing.assert_close(found, x.grad)
    assert len(traced) == 2


def _trained_names(program: Any) -> list[str]:
    """The floating-point state, without the statistics of batch norms, which have no gradient."""
    norms = program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    fixed = {str(node.args[place].target) for node in norms for place in (3, 4)}
    return [name for name, held in program.state().items() if held.is_floating_point() and name not in fixed]


@settings(max_examples=10, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_random_graphs_have_the_gradients_of_their_decompositions(data: st.DataObject) -> None:
    program = data.draw(rec_graphs())
    leaves = data.draw(tensors_for(program))
    found = []
    for module in (program.as_module(), decompose(program).as_module()):
        given = [leaf.detach().clone() for leaf in leaves]
        trained = [leaf.requires_grad_() for leaf in given if leaf.is_floating_point()]
        module.requires_grad_(False)
        held = module.program.state()  # a decomposition does not read tables of lookups whose result nobody reads
        trained += [held.get(name, torch.zeros(())).requires_grad_() for name in _trained_names(program)]
        try:
            outputs = [o for o in run_graph(module.program.module, given) if o.is_floating_point() and o.requires_grad]
        except InputError as error:
            assume("no gradient" not in str(error))  # layers with int8 weights, codes, the scale of a propagation
            raise
        assume(outputs and trained)
        total = sum(o.double().clamp(-1e3, 1e3).sum() for o in outputs)
        try:
            found.append(torch.autograd.grad(total, trained, allow_unused=True))
        except InputError as error:
            assume("no gradient" not in str(error))
            raise
    for ours, plain in zip(*found, strict=True):
        ours, plain = (torch.zeros(()) if g is None else g.to_dense() for g in (ours, plain))
        torch.testing.assert_close(ours, plain.expand_as(ours), rtol=1e-3, atol=1e-3, equal_nan=True)
