"""The inputs of a model in one form, the parameters of `forward` in order, for any mix of positional and keyword arguments."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.containers import canonical, is_container, name_parts
from recfx.ir.mappings import register_mapping


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a model, bound to the signature of its `forward`.

    Attributes:
        names: The parameters with a value, in order; `args_0`, `args_1`, ... for the values of `*args`.
        values: The values of these parameters.
        args: The values to pass by position.
        kwargs: The values to pass by keyword.
        defaults: Parameter left at its default -> the default.
        variadic: Name of the `*args` parameter; None without one.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    defaults: Mapping[str, Any]
    variadic: str | None = None

    def with_values(self, values: Sequence[Any]) -> Call:
        """The same call with other values for the same parameters."""
        positional = len(self.args)
        return dataclasses.replace(
            self,
            values=tuple(values),
            args=tuple(values[:positional]),
            kwargs=dict(zip(self.names[positional:], values[positional:], strict=True)),
        )

    def like_signature(self, marks: Sequence[Any]) -> Any:
        """Arranges dynamic-shape marks, one for each parameter, in the form that torch.export expects for this signature."""
        named = dict(zip(self.names, marks, strict=True))
        if self.variadic is None:
            return named
        rest = [n for n in self.names if n.startswith(f"{self.variadic}_") and n not in self.kwargs]
        merged = {n: m for n, m in named.items() if n not in rest}
        return {**merged, self.variadic: tuple(named[n] for n in rest)}


def normalize_call(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Binds example inputs to the model's `forward`.

    Raises:
        InputError: The inputs do not fit `forward`.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit the model's forward: {error}",
            where=f"{type(model).__name__}.forward{signature}",
            hint="pass positional inputs as a tuple and keyword inputs as a dict of parameter names",
        ) from error
    register_containers(tuple(bound.arguments.values()))
    positional: dict[str, Any] = {}
    keyword: dict[str, Any] = {}
    variadic: str | None = None
    names = list(signature.parameters)
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        before = names[: names.index(name)]
        if kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = name
            positional.update({f"{name}_{i}": v for i, v in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            keyword.update(value)
        elif kind is inspect.Parameter.KEYWORD_ONLY or any(n not in bound.arguments for n in before):
            keyword[name] = value  # an earlier parameter has its default, so the value cannot be positional
        else:
            positional[name] = value
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in bound.arguments
    }
    positional, keyword = (pytree.tree_map(canonical, v, is_leaf=is_container) for v in (positional, keyword))
    given = {**positional, **keyword}
    name_parts(pytree.tree_leaves(tuple(given.values()), is_leaf=is_container))
    return Call(tuple(given), tuple(given.values()), tuple(positional.values()), keyword, defaults, variadic)


def leaf_names(call: Call) -> list[str]:
    """The name of every leaf of a call, as an expression over the parameters: `sparse`, `features['user_id']`."""
    names = []
    for parameter, value in zip(call.names, call.values, strict=True):
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            names.append(parameter + pytree.keystr(path))
    return names


def distinct_values(call: Call) -> Call:
    """The call with a copy of each repeated tensor object: export treats one object as one input."""
    seen: set[int] = set()

    def distinct(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) in seen:
            return leaf.clone()
        seen.add(id(leaf))
        return leaf

    values: tuple[Any, ...] = pytree.tree_map(distinct, tuple(call.values))
    return call.with_values(values) if len(seen) < len(pytree.tree_leaves(call.values)) else call


def split_example(example: Any, model: torch.nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Splits `example_inputs` (a tensor, a tuple or list of arguments, or a dict) into positional and keyword arguments.

    A dict whose keys are parameter names of `forward` holds keyword arguments; any other dict is one argument.
    """
    if isinstance(example, tuple | list) and not hasattr(example, "_fields"):
        return tuple(example), {}
    if isinstance(example, Mapping) and _are_keywords(example, model):
        return (), dict(example)
    return (example,), {}


def _are_keywords(example: Mapping[Any, Any], model: torch.nn.Module) -> bool:
    if not all(isinstance(key, str) for key in example):
        return False
    parameters = inspect.signature(model.forward).parameters
    named = {n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    if set(example) - named and len(named) == len(parameters):
        return False
    try:
        inspect.signature(model.forward).bind(**example)
    except TypeError:
        return False
    return True


def register_containers(value: Any) -> None:
    """Registers the dataclasses and mapping types inside a value with torch's pytrees.

    Raises:
        InputError: The constructor of a mapping type does not accept a dict.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(
                type(value), serialized_type_name=f"{type(value).__module__}.{type(value).__qualname__}"
            )
        for field in dataclasses.fields(value):
            register_containers(getattr(value, field.name))
    elif isinstance(value, Mapping):
        register_mapping(value)
        for item in value.values():
            register_containers(item)
    elif isinstance(value, tuple | list):
        for item in value:
            register_containers(item)
