"""The entry of a compiled model: a generated function that takes the user's inputs, checks them, and returns the user's outputs.

The checks take less than a microsecond for each tensor, because the code is generated for one signature. When a check fails, the slow and
thorough checks of `Signature` raise the error.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.ir import size_expressions
from recfx.ir.constants import without_constants
from recfx.ir.containers import JAGGED, all_canonical, container_keys, container_kind, defining_leaves, holds_container
from recfx.ir.held_values import rebuild_node
from recfx.ir.jagged_outputs import jagged_builder
from recfx.ir.leaves import LeafSpec, one_row
from recfx.ir.mappings import as_dict, mapping_keys
from recfx.ir.shapes import BATCH
from recfx.ir.signature import Signature
from recfx.ir.sizes import linear_size

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "<missing>"})()


def entry_function(
    signature: Signature, run: Callable[..., Any], one_row: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Generates the function that users call.

    Args:
        signature: The calling convention.
        run: A function from the leaves, by position, to the flat outputs.
        one_row: The entry to call instead, with the same arguments, when the batch has one row.
    """
    renamed = any(map(_is_taken, (*signature.parameters, *signature.defaults)))
    entry = _EntryWriter(signature, run, one_row, renamed=renamed).compile()
    entry = _under_user_names(entry, signature) if renamed else entry
    return _with_constants(entry, signature) if signature.constants else entry


def _with_constants(entry: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    """Wraps an entry so that calls may pass or leave out constant inputs."""
    takes, forward, constants = len(signature.parameters), signature.forward, signature.constants

    def entry_with_constants(*args: Any, **kwargs: Any) -> Any:
        if len(args) + len(kwargs) > takes:
            args, kwargs = without_constants(forward, constants, args, kwargs)
        return entry(*args, **kwargs)

    return entry_with_constants


def _is_taken(name: str) -> bool:
    """Whether a parameter cannot have this name, because it does not parse or hides a name that the generated code uses."""
    if not name.isidentifier() or keyword.iskeyword(name) or hasattr(builtins, name):
        return True
    return re.fullmatch(r"_\w*|[a-z]{1,2}\d+\w*|out", name) is not None


def _under_user_names(entry: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    """Wraps an entry with numbered parameters so that calls use the user's parameter names."""
    numbers = {name: f"input_{i}" for i, name in enumerate((*signature.parameters, *signature.defaults))}
    positional = len(signature.parameters) - len(signature.keyword_only)

    def entry_by_name(*args: Any, **kwargs: Any) -> Any:
        if len(args) > positional:
            raise TypeError(f"the model takes at most {positional} positional arguments, got {len(args)}")
        return entry(*args, **{numbers[name]: value for name, value in kwargs.items()})

    return entry_by_name


class _EntryWriter:
    def __init__(
        self,
        signature: Signature,
        run: Callable[..., Any],
        one_row: Callable[..., Any] | None = None,
        *,
        renamed: bool = False,
    ) -> None:
        self.signature = signature
        self.renamed = renamed
        self.one_row = one_row
        self.namespace: dict[str, Any] = {
            "_run": run,
            "_T": torch.Tensor,
            "_missing": MISSING,
            "_explain": self._explain,
            "_tree_flatten": pytree.tree_flatten,
            "_defining_leaves": defining_leaves,
            "_container_keys": container_keys,
            "_canonical": all_canonical,
            "_as_dict": as_dict,
            "_one_row_entry": one_row,
        }
        self.lines: list[str] = []
        self.leaf_expressions: list[str] = []
        self.dims: dict[str, str] = {}
        self.unsolved: list[tuple[str, str]] = []

    def compile(self) -> Callable[..., Any]:
        parameters = self.signature.parameters
        values = self.signature.in_spec.children()[0].children()
        self.values = f"({', '.join(f'a{i}' for i in range(len(parameters)))}{',' if parameters else ''})"
        for index, nesting in enumerate(values):
            self._unpack(f"a{index}", nesting)
        for index, (spec, expression) in enumerate(zip(self.signature.leaves, self.leaf_expressions, strict=True)):
            self._check(index, spec, expression)
        self._check_unsolved()
        arguments = ", ".join(f"x{i}" for i in range(len(self.leaf_expressions)))
        self._emit(f"out = _run({arguments})")
        self._emit(f"return {self._result()}")
        source = f"def entry({self._parameters()}):\n" + "\n".join(f"    {line}" for line in self.lines) + "\n"
        exec(compile(source, "<recfx entry>", "exec"), self.namespace)
        entry: Callable[..., Any] = self.namespace["entry"]
        return entry

    def _emit(self, line: str) -> None:
        self.lines.append(line)

    def _parameters(self) -> str:
        """The parameter list with the user's names. The code renames them to a0, a1, ..., so that no name can clash."""
        signature, texts, renames = self.signature, [], []
        star = False
        for index, name in enumerate(signature.parameters):
            if name in signature.keyword_only and not star and not self.renamed:
                texts.append("*")
                star = True
            shown = f"input_{index}" if self.renamed else name
            texts.append(f"{shown}=_missing")
            renames.append(f"a{index} = {shown}")
        if signature.defaults and not star:
            texts.append("*")
        for index, (name, value) in enumerate(signature.defaults.items()):
            shown = f"input_{len(signature.parameters) + index}" if self.renamed else name
            self.namespace[f"_d{index}"] = value
            texts.append(f"{shown}=_d{index}")
            renames.append(f"if {shown} is not _d{index}: _explain({self.values}, {{{name!r}: {shown}}})")
        self.lines[:0] = renames
        return ", ".join(texts)

    def _unpack(self, expression: str, spec: pytree.TreeSpec) -> None:
        """Emits the code that reads the leaves of one value, in order."""
        if spec.is_leaf():
            self.leaf_expressions.append(expression)
        elif (keys := mapping_keys(spec)) is not None:
            held = f"m{len(self.lines)}"
            self._emit(f"{held} = {expression} if type({expression}) is dict else _as_dict({expression})")
            self._emit(f"if type({held}) is not dict or len({held}) != {len(keys)}: _explain({self.values})")
            for key, child in zip(keys, spec.children(), strict=True):
                name = f"k{len(self.lines)}"
                self.namespace[f"_{name}"] = key
                self._emit(f"{name} = {held}.get(_{name}, _missing)")
                self._unpack(name, child)
        elif spec.type in (tuple, list):
            self._emit(
                f"if type({expression}) is not {spec.type.__name__} or len({expression}) != {spec.num_children}: "
                f"_explain({self.values})"
            )
            for position, child in enumerate(spec.children()):
                self._unpack(f"{expression}[{position}]", child)
        else:
            name = f"s{len(self.lines)}"
            self.namespace[f"_{name}"] = spec
            if container_kind(spec.type) is not None:
                self.namespace |= {f"_{name}": spec.type, f"_k{name}": spec.context}
                self._unpack_container(name, expression, spec)
            else:
                value = f"_canonical({expression})" if holds_container(spec) else expression
                self._emit(f"l{name}, t{name} = _tree_flatten({value})")
                self._emit(f"if t{name} != _{name}: _explain({self.values})")
            self.leaf_expressions += [f"l{name}[{i}]" for i in range(spec.num_leaves)]

    def _unpack_container(self, name: str, expression: str, spec: pytree.TreeSpec) -> None:
        """Emits the code that reads the defining tensors of a TorchRec container; inline code for a JaggedTensor without offsets."""
        held = f"h{name}"
        self._emit(f"{held} = {expression}")
        if container_kind(spec.type) == JAGGED:
            self._emit(f"if type({held}) is not _{name}: _explain({self.values})")
            self._emit(f"n{name} = {held}._lengths")
            plain = f"{held}._offsets is None and n{name} is not None and n{name}.ndim == 1"
            parts = f"({held}._values, {held}._weights, n{name}, None)"
            self._emit(f"l{name} = {parts} if {plain} else _defining_leaves({held})")
            return
        self._emit(f"if type({held}) is not _{name} or _container_keys({held}) != _k{name}: _explain({self.values})")
        self._emit(f"l{name} = _defining_leaves({held})")

    def _check(self, index: int, spec: LeafSpec, expression: str) -> None:
        x = f"x{index}"
        self._emit(f"{x} = {expression}")
        if spec.kind == "size":
            self.unsolved.append((x, str(spec.value)))
            return
        if spec.kind == "constant":
            self.namespace[f"_c{index}"] = spec.value
            self._emit(f"if {x} is not _c{index}: _explain({self.values})")
            return
        self.namespace[f"_dt{index}"] = spec.dtype
        on_device = f"{x}.is_cpu"
        if spec.device is None or spec.device.type != "cpu":
            self.namespace[f"_dev{index}"] = spec.device
            on_device = f"{x}.device == _dev{index}"
        conditions = [f"not isinstance({x}, _T)", f"{x}.dtype is not _dt{index}", f"not {on_device}"]
        conditions.append(f"{x}.ndim != {len(spec.shape)}")
        if spec.contiguous:
            conditions.append(f"not {x}.is_contiguous()")
        self._emit(f"if {' or '.join(conditions)}: _explain({self.values})")
        if spec.repeats != "refused":
            self._take_one_row(index, spec)
        if spec.shape:
            self._check_sizes(x, spec)

    def _take_one_row(self, index: int, spec: LeafSpec) -> None:
        """Emits the code that accepts the row of a request repeated for each candidate."""
        self.namespace[f"_spec{index}"], self.namespace["_one_row"] = spec, one_row
        batch = self.signature.batch_leaf
        rows = "None" if batch is None else self.leaf_expressions[batch]
        self._emit(f"if x{index}.shape[0] != 1: x{index} = _one_row(_spec{index}, x{index}, {rows})")

    def _check_sizes(self, x: str, spec: LeafSpec) -> None:
        names = [f"{x}_{axis}" for axis in range(len(spec.shape))]
        self._emit(f"{', '.join(names)}, = {x}.shape")
        conditions = []
        for name, want in zip(names, spec.shape, strict=True):
            if isinstance(want, int):
                conditions.append(f"{name} != {want}")
            elif want in self.dims:
                conditions.append(f"{name} != {self.dims[want]}")
            elif want in self.signature.dims:
                conditions.append(self._bind(want, name))
            elif (expression := self._known(want)) is not None:
                conditions.append(f"{name} != {expression}")
            elif (solution := linear_size(want, self.dims)) is not None:
                dim, factor, base = solution
                conditions.append(f"({name} - {base}) % {factor}")
                conditions.append(self._bind(dim, f"(({name} - {base}) // {factor})"))
            else:
                self.unsolved.append((name, want))
        if conditions:
            self._emit(f"if {' or '.join(conditions)}: _explain({self.values})")

    def _bind(self, dim: str, size: str) -> str:
        """Binds the size of a dimension, and returns the condition under which it is out of range."""
        self.dims[dim] = size
        if dim == BATCH and self.one_row is not None:
            self._emit(f"if {size} == 1: return _one_row_entry({self._same_arguments()})")
        low, high = self.signature.dims[dim]
        return f"not {low} <= {size}" + (f" <= {high}" if high is not None else "")

    def _check_unsolved(self) -> None:
        """Emits the checks of sizes that depend on dimensions of later inputs."""
        known = [(name, self._known(want)) for name, want in self.unsolved]
        conditions = [f"{name} != {expression}" for name, expression in known if expression is not None]
        if conditions:
            self._emit(f"if {' or '.join(conditions)}: _explain({self.values})")

    def _same_arguments(self) -> str:
        """Code that passes the arguments of this call to another entry with the same parameters."""
        named = self.signature.keyword_only
        return ", ".join(
            f"**{{{n!r}: a{i}}}" if n in named else f"a{i}" for i, n in enumerate(self.signature.parameters)
        )

    def _known(self, expression: str) -> str | None:
        """Code of a size expression over local names; None when a dimension of it is not bound yet."""
        if not self.dims.keys() >= set(size_expressions.dimensions(expression)):
            return None
        return size_expressions.render(expression, self.dims)

    def _result(self) -> str:
        spec = self.signature.out_spec
        if spec.is_leaf():
            return "out[0]"
        return self._build(spec, iter(builtins.range(spec.num_leaves)))

    def _build(self, spec: pytree.TreeSpec, indices: Iterator[int]) -> str:
        """Code that rebuilds an output from `out`. A walk over the nesting at each call would take many times as long."""
        if spec.is_leaf():
            return f"out[{next(indices)}]"
        children = [self._build(child, indices) for child in spec.children()]
        inner = ", ".join(children)
        if spec.type is tuple:
            return f"({inner}{',' if children else ''})"
        if spec.type is list:
            return f"[{inner}]"
        if spec.type is dict and all(isinstance(key, str) for key in spec.context):
            pairs = zip(spec.context, children, strict=True)
            return "{" + ", ".join(f"{key!r}: {value}" for key, value in pairs) + "}"
        name = f"_u{len(self.namespace)}"
        if container_kind(spec.type) == JAGGED:
            self.namespace[name] = jagged_builder(spec.type)
            return f"{name}({inner})"
        self.namespace |= {name: rebuild_node(spec.type), f"{name}c": spec.context}
        return f"{name}([{inner}], {name}c)"

    def _explain(self, values: tuple[Any, ...], defaults: dict[str, Any] | None = None) -> None:
        """Raises the error for inputs that do not fit; returns if only the fast check was too strict."""
        signature = self.signature
        given = {name: v for name, v in zip(signature.parameters, values, strict=True) if v is not MISSING}
        signature.check(signature.flatten((), {**given, **(defaults or {})}))
