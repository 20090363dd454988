"""The flat runner: a program as one generated Python function with bound parameters, without module or pytree calls.

`GraphModule.forward` of a captured graph is slower than the user's eager model. This function is faster for three reasons: it looks up
attributes once, it calls operators through torch's own argument parser where a binding exists (about 0.7 µs less for each operator than
`torch.ops`), and it frees every intermediate after its last use.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import fx

from recfx.ir.program import Program, get_state
from recfx.ir.region import Region
from recfx.runtime.complete_sums import complete_sums, lengths_of_offsets

_aten = torch.ops.aten

#: Overload -> direct binding with the same argument order. A test compares each pair on real inputs.
FAST_CALLS: dict[Any, Callable[..., Any]] = {
    _aten.linear.default: torch._C._nn.linear,
    _aten.gelu.default: torch._C._nn.gelu,
    _aten.silu.default: torch._C._nn.silu,
    _aten.leaky_relu.default: torch._C._nn.leaky_relu,
    _aten.softplus.default: torch._C._nn.softplus,
    _aten.scaled_dot_product_attention.default: torch._C._nn.scaled_dot_product_attention,
    _aten.expand.default: torch.Tensor.expand,
    _aten.view.default: torch.Tensor.view,
    _aten.contiguous.default: torch.Tensor.contiguous,
    _aten.expand_as.default: torch.Tensor.expand_as,
    **{
        getattr(getattr(_aten, name), overload): getattr(torch, name)
        for name, overload in (
            ("abs", "default"),
            ("add", "Tensor"),
            ("addmm", "default"),
            ("amax", "default"),
            ("batch_norm", "default"),
            ("bmm", "default"),
            ("cat", "default"),
            ("chunk", "default"),
            ("clamp", "default"),
            ("cumsum", "default"),
            ("div", "Tensor"),
            ("embedding", "default"),
            ("embedding_bag", "padding_idx"),
            ("eq", "Scalar"),
            ("eq", "Tensor"),
            ("exp", "default"),
            ("flatten", "using_ints"),
            ("gather", "default"),
            ("ge", "Scalar"),
            ("gt", "Scalar"),
            ("index_select", "default"),
            ("layer_norm", "default"),
            ("log", "default"),
            ("logical_not", "default"),
            ("lt", "Scalar"),
            ("masked_fill", "Scalar"),
            ("matmul", "default"),
            ("mean", "dim"),
            ("mul", "Tensor"),
            ("ne", "Scalar"),
            ("neg", "default"),
            ("permute", "default"),
            ("pow", "Tensor_Scalar"),
            ("prelu", "default"),
            ("relu", "default"),
            ("reshape", "default"),
            ("rsub", "Scalar"),
            ("select", "int"),
            ("sigmoid", "default"),
            ("softmax", "int"),
            ("sqrt", "default"),
            ("square", "default"),
            ("squeeze", "dim"),
            ("stack", "default"),
            ("sub", "Tensor"),
            ("sum", "dim_IntList"),
            ("tanh", "default"),
            ("transpose", "int"),
            ("tril_indices", "default"),
            ("unbind", "int"),
            ("unsqueeze", "default"),
            ("where", "self"),
        )
    },
}


def flat_function(program: Program | Region) -> Callable[..., tuple[Any, ...]]:
    """Compiles a program to a function from its flat inputs (positional) to its flat outputs.

    The function reads only its arguments and the state of the program. It does not check its inputs, and it does not record gradients.
    Parameters are not detached: torch uses another matrix product for a matrix that requires gradients, even when it records none, and the
    results must have the same bits as the user's model.
    """
    source, namespace = flat_source(program)
    exec(compile(source, "<recfx flat program>", "exec"), namespace)
    function: Callable[..., tuple[Any, ...]] = namespace["run"]
    function.__doc__ = source
    return function


def flat_source(program: Program | Region) -> tuple[str, dict[str, Any]]:
    """The source of the flat function, and the namespace with the values that it uses."""
    return _Writer(program).write()


class _Writer:
    def __init__(self, program: Program | Region) -> None:
        self.program = program
        self.namespace: dict[str, Any] = {}
        self.bound: dict[int, str] = {}
        self.names: dict[fx.Node, str] = {}
        self.listed = {node for node in program.graph.nodes if _only_numbers(node)}
        self.sums = {node: lengths for node in program.graph.nodes if (lengths := lengths_of_offsets(node)) is not None}
        inner = [part for node in self.sums for part in node.args[0] if len(part.users) == 1]
        self.skipped = set(inner)

    def write(self) -> tuple[str, dict[str, Any]]:
        last = self._last_uses()
        parameters = [self._name(n) for n in self.program.placeholders()]
        self.namespace |= {"_is_grad_enabled": torch.is_grad_enabled, "_set_grad_enabled": torch._C._set_grad_enabled}
        lines = [
            f"def run({', '.join(parameters)}):",
            "    _grad = _is_grad_enabled()",
            "    _set_grad_enabled(False)",
            "    try:",
        ]
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                state = get_state(self.program.module, str(node.target))
                self.names[node] = self._bind(state, f"p_{_identifier(str(node.target))}")
            elif node in self.skipped:
                continue
            elif node.op == "call_function":
                lines.append(f"        {self._name(node)} = {self._call(node)}")
                lines += self._free(last.get(node, []))
            elif node.op == "output":
                results = ", ".join(self._text(a) for a in node.args[0])
                lines.append(f"        return ({results}{',' if results else ''})")
        lines += ["    finally:", "        _set_grad_enabled(_grad)"]
        return "\n".join(lines) + "\n", self.namespace

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """Node -> the values that it is the last to read."""
        seen: set[fx.Node] = set()
        last: dict[fx.Node, list[fx.Node]] = {}
        for node in reversed(self.program.graph.nodes):
            if node in self.skipped:
                continue
            for used in [*([self.sums[node]] if node in self.sums else node.all_input_nodes), node]:
                if used not in seen:
                    seen.add(used)
                    last.setdefault(node, []).append(used)
        return last

    def _free(self, nodes: Sequence[fx.Node]) -> list[str]:
        names = [self.names[n] for n in nodes if n.op in ("call_function", "placeholder")]
        return [f"        {' = '.join(names)} = None"] if names else []

    def _name(self, node: fx.Node) -> str:
        if node not in self.names:
            self.names[node] = f"v_{_identifier(node.name)}"
        return self.names[node]

    def _call(self, node: fx.Node) -> str:
        target = node.target
        if node in self.sums:
            return f"{self._bind(complete_sums, 'f_complete_sums')}({self._text(self.sums[node])})"
        if node in self.listed:
            return f"{self._text(node.args[0])}.tolist()"
        if target is _aten.item.default and _element_of(node.args[0]) in self.listed:
            return self._text(node.args[0])
        if target is operator.getitem:
            return f"{self._text(node.args[0])}[{self._text(node.args[1])}]"
        if target is _aten.sym_size.int:
            return f"{self._text(node.args[0])}.shape[{node.args[1]}]"
        if target is _aten.slice.Tensor and (text := self._slice(node)):
            return text
        if target is _aten.to.dtype and len(node.args) == 2 and not node.kwargs:
            return f"{self._text(node.args[0])}.to({self._text(node.args[1])})"
        function = FAST_CALLS.get(target, target)
        args: Sequence[Any] = node.args
        kwargs: Mapping[str, Any] = node.kwargs
        if function is not target:
            args, kwargs = _as_declared(target, args, kwargs)
        arguments = [self._text(a) for a in args]
        arguments += [f"{name}={self._text(value)}" for name, value in kwargs.items()]
        stem = target.__name__ if isinstance(target, FunctionType) else str(target)
        return f"{self._bind(function, f'f_{_identifier(stem)}')}({', '.join(arguments)})"

    def _slice(self, node: fx.Node) -> str | None:
        """Code for a slice along one of the first dimensions, as indexing, which is the fastest binding; None for other slices."""
        given: tuple[Any, ...] = node.args[1:]
        dim, start, end, step = given + (0, None, None, 1)[len(given) :]
        plain = all(isinstance(v, int) or v is None for v in (dim, start, end, step))
        if not plain or not 0 <= dim <= 3 or node.kwargs:
            return None
        bounds = ":".join("" if v is None or v == 2**63 - 1 else str(v) for v in (start, end))
        if step != 1:
            bounds += f":{step}"
        return f"{self._text(node.args[0])}[{':, ' * dim}{bounds}]"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._name(value)
        if isinstance(value, tuple):
            return f"({', '.join(self._text(v) for v in value)}{',' if value else ''})"
        if isinstance(value, list):
            return f"[{', '.join(self._text(v) for v in value)}]"
        if isinstance(value, slice):
            return f"slice({self._text(value.start)}, {self._text(value.stop)}, {self._text(value.step)})"
        if isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        return self._bind(value, "c")

    def _bind(self, value: Any, stem: str) -> str:
        """Adds a value to the namespace of the function and returns its name."""
        key = id(value)
        if key not in self.bound:
            name, number = stem, 0
            while name in self.namespace or keyword.iskeyword(name):
                number += 1
                name = f"{stem}_{number}"
            self.bound[key] = name
            self.namespace[name] = value
        return self.bound[key]


def _as_declared(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Converts integers and bools among the arguments to the types that the schema declares.

    torch.ops converts them itself; the direct bindings refuse the wrong type.
    """
    declared = {argument.name: str(argument.type) for argument in target._schema.arguments}
    given = [_of_type(value, kind) for value, kind in zip(args, declared.values(), strict=False)]
    return given, {name: _of_type(value, declared[name]) for name, value in kwargs.items()}


def _of_type(value: Any, declared: str) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_of_type(v, declared) for v in value)
    if type(value) is bool and "int" in declared:
        return int(value)
    if type(value) is int and "bool" in declared:
        return bool(value)
    return value


def _element_of(node: Any) -> fx.Node | None:
    """The node of a list, if `node` reads one element of the list; None otherwise."""
    source = node.args[0] if isinstance(node, fx.Node) and node.target is operator.getitem else None
    return source if isinstance(source, fx.Node) else None


def _only_numbers(node: fx.Node) -> bool:
    """Whether a node splits a vector into elements that are all read as Python numbers; `tolist()` reads them faster."""
    if node.target is not _aten.unbind.int or not node.users:
        return False
    vector = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if not isinstance(vector, torch.Tensor) or vector.ndim != 1:
        return False
    elements = [user for user in node.users if user.target is operator.getitem]
    return len(elements) == len(node.users) and all(
        reader.target is _aten.item.default for element in elements for reader in element.users
    )


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)
