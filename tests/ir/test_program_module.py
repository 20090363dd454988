"""Programs as modules: names, signature, copies, devices of parameters, and capture of the module again."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from program_cases import dict_inputs, nested_program, tiny_program
from torch import fx, nn

from recfx.capture import capture
from recfx.errors import InputError
from recfx.ir import Program
from recfx.ir.program_module import ProgramModule


def test_the_module_computes_what_the_program_computes_and_shares_nothing() -> None:
    program = tiny_program()
    module = program.as_module()
    inputs = program.signature.unpacked(program.example)[0]
    assert torch.equal(module(*inputs), torch.as_tensor(program(*inputs)))
    assert not module.training
    for name, tensor in module.state_dict().items():
        held = program.state()[name]
        assert torch.equal(tensor, held)
        assert tensor.data_ptr() != held.data_ptr()
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert not torch.equal(module(*inputs), torch.as_tensor(program(*inputs)))
    assert torch.equal(module(*inputs), torch.as_tensor(module.program(*inputs)))


def test_forward_has_the_parameters_of_the_model() -> None:
    module = nested_program().as_module()
    assert str(inspect.signature(module.forward)) == "(x, features, *, scale=2.0)"
    x, features = dict_inputs(3)
    torch.testing.assert_close(module(features=features, x=x)["out"][0], x * 2.0 + features["a"])


def test_inputs_that_do_not_fit_are_refused() -> None:
    module = nested_program().as_module()
    x, features = dict_inputs(3)
    with pytest.raises(InputError, match=r"features"):
        module(x)
    with pytest.raises(InputError, match=r"expected"):
        module(x.double(), features)


def test_a_copy_has_its_own_parameters_and_program() -> None:
    module = tiny_program().as_module()
    other = copy.deepcopy(module)
    inputs = module.program.signature.unpacked(module.program.example)[0]
    assert torch.equal(other(*inputs), module(*inputs))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(*inputs), module(*inputs))
    assert torch.equal(other(*inputs), torch.as_tensor(other.program(*inputs)))


def test_tensors_that_torch_replaces_are_replaced_in_the_program() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    module = capture(model, (torch.randn(4, 3),)).as_module()
    module.double()
    x = torch.randn(4, 3, dtype=torch.float64)
    assert module.program.state()["0.weight"].dtype is torch.float64
    torch.testing.assert_close(
        torch.as_tensor(module.program.run([x])[0]), copy.deepcopy(model).double()(x), rtol=1e-9, atol=1e-9
    )
    module.float().load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(module(x.float()), model(x.float()))


def test_subclasses_change_what_is_read_and_computed() -> None:
    class Doubled(ProgramModule[Program]):
        def read(self, node: fx.Node, value: Any) -> Any:
            return 2 * super().read(node, value)

        def call(self, target: Any, args: Any, kwargs: Any) -> Any:
            return 3 * super().call(target, args, kwargs)

    model, x = nn.Linear(3, 2).eval(), torch.randn(4, 3)
    module = Doubled(capture(model, (x,)))
    torch.testing.assert_close(module(x), 6 * model(x))


def test_names_that_the_class_has_are_read_as_parameters() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program, self.run = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.run(self.program(x))

    model, x = Clash().eval(), torch.randn(3, 2)
    module = capture(model, (x,)).as_module()
    assert set(dict(module.named_parameters())) == set(dict(model.named_parameters()))
    torch.testing.assert_close(module(x), model(x))


def test_the_module_is_captured_as_the_same_graph_with_the_same_names() -> None:
    program = tiny_program()
    module = program.as_module()
    args, _ = program.signature.unpacked(program.example)
    again = capture(module, args)
    assert isinstance(module, ProgramModule)
    assert set(again.state()) == set(program.state())
    assert again.signature.parameters == program.signature.parameters
    assert again.signature.dims == program.signature.dims
    targets = [[node.target for node in each.graph.nodes if node.op == "call_function"] for each in (program, again)]
    assert targets[0] == targets[1]
