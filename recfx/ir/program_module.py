"""`ProgramModule`: a program as an `nn.Module` with its own parameters, for training."""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import fx

from recfx.ir.run_graph import run_graph
from recfx.ir.signature import Signature


class Graph(Protocol):
    """What a module needs of a `Program`."""

    module: fx.GraphModule
    signature: Signature


P = TypeVar("P", bound=Graph)


class _Forward:
    """`forward` as a method with the parameters of the captured model's `forward`, which `inspect.signature` reads."""

    def __get__(self, module: ProgramModule[Any] | None, owner: type) -> Any:
        if module is None:
            return self
        function = FunctionType(_forward.__code__, _forward.__globals__, "forward")
        function.__signature__ = _python_signature(module.program.signature)  # type: ignore[attr-defined]
        return MethodType(function, module)


def _forward(self: ProgramModule[Any], *args: Any, **kwargs: Any) -> Any:
    return self.run(args, kwargs)


class ProgramModule(torch.nn.Module, Generic[P]):
    """A program that is called like the captured model, with gradients.

    Its parameters have the names of the captured model where passes kept them. Autograd runs through the operators of the graph, those of
    the recfx dialect included. Training mode changes nothing: the model was captured in eval mode, without dropout and with fixed batch
    statistics.

    Args:
        program: The program, whose tensors become the parameters and buffers of the module.
    """

    forward = _Forward()

    def __init__(self, program: P) -> None:
        super().__init__()
        self._program = program
        # The dictionaries are shared, so that a tensor that torch replaces here, as `to` does, is replaced in the program as well.
        held = program.module
        self._parameters, self._buffers, self._modules = held._parameters, held._buffers, held._modules
        self._non_persistent_buffers_set = held._non_persistent_buffers_set

    @property
    def program(self) -> P:
        """The program, which holds the present values of the parameters."""
        return self._program

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the program.

        Raises:
            InputError: The inputs do not fit the signature.
        """
        signature = self._program.signature
        leaves = signature.flatten(args, kwargs)
        if not torch.compiler.is_compiling():  # comparing the sizes of a trace would fix them
            signature.check(leaves)
        return signature.unflatten(run_graph(self._program.module, leaves, read=self.read, call=self.call))

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Computes an operator; subclasses may change operands and results."""
        return target(*args, **kwargs)

    def read(self, node: fx.Node, _: Any) -> Any:
        """The value of a read of state, which subclasses may change."""
        return self.held(str(node.target))

    def held(self, name: str) -> Any:
        """The present tensor of a name. Tracers replace tensors in the dictionaries of the module that they call."""
        *path, last = name.split(".")
        owner: torch.nn.Module = self
        for part in path:
            owner = owner._modules[part]  # type: ignore[assignment]
        found = owner._parameters.get(last)
        return owner._buffers[last] if found is None else found


def _python_signature(signature: Signature) -> inspect.Signature:
    """The parameters of a captured model's `forward`, behind `self`."""
    plain, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    given += [
        inspect.Parameter(name, named if name in signature.keyword_only else plain) for name in signature.parameters
    ]
    left = [inspect.Parameter(name, named, default=value) for name, value in signature.defaults.items()]
    left += [
        inspect.Parameter(name, named, default=None) for name in signature.constants if name not in signature.defaults
    ]
    return inspect.Signature(sorted([*given, *left], key=lambda parameter: parameter.kind))
