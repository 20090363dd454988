"""The inputs of a model in one form: `forward`'s parameters in order, whatever mix of positions and keywords was given."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.containers import canonical, is_container, name_parts


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a model, bound to the signature of its `forward`.

    Attributes:
        names: The parameters given, in order.
        values: Their values.
        args: The values to pass by position.
        kwargs: The values to pass by keyword.
        defaults: Parameters left at their default.
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
        """Dynamic-shape marks, one for each parameter, in the form torch.export expects for this signature."""
        named = dict(zip(self.names, marks, strict=True))
        if self.variadic is None:
            return named
        rest = [n for n in self.names if n.startswith(f"{self.variadic}_") and n not in self.kwargs]
        merged = {n: m for n, m in named.items() if n not in rest}
        return {**merged, self.variadic: tuple(named[n] for n in rest)}


def normalize_call(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Binds example inputs to the model's `forward`.

    Raises:
        InputError: They do not fit it.
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
    positional: dict[str, Any] = {}
    keyword: dict[str, Any] = {}
    variadic: str | None = None
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = name
            positional.update({f"{name}_{i}": v for i, v in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            keyword.update(value)
        elif kind is inspect.Parameter.KEYWORD_ONLY:
            keyword[name] = value
        else:
            positional[name] = value
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in bound.arguments
    }
    positional, keyword = (pytree.tree_map(canonical, v, is_leaf=is_container) for v in (positional, keyword))
    given = {**positional, **keyword}
    for value in given.values():
        _register_dataclasses(value)
    name_parts(pytree.tree_leaves(tuple(given.values()), is_leaf=is_container))
    return Call(tuple(given), tuple(given.values()), tuple(positional.values()), keyword, defaults, variadic)


def leaf_names(call: Call) -> list[str]:
    """The name of every leaf of a call as a user would write it: `sparse`, `features['user_id']`."""
    names = []
    for parameter, value in zip(call.names, call.values, strict=True):
        for path, _ in pytree.tree_flatten_with_path(value)[0]:
            names.append(parameter + pytree.keystr(path))
    return names


def split_example(example: Any, model: torch.nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a user means by `example_inputs`: a tensor, a tuple or list of arguments, or a dict.

    A dict whose keys are names of `forward`'s parameters is taken as keywords, any other as one argument.
    """
    if isinstance(example, tuple | list) and not hasattr(example, "_fields"):
        return tuple(example), {}
    if isinstance(example, dict) and _are_keywords(example, model):
        return (), dict(example)
    return (example,), {}


def _are_keywords(example: dict[Any, Any], model: torch.nn.Module) -> bool:
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


def _register_dataclasses(value: Any) -> None:
    """Teaches torch's pytrees the dataclasses inside a value, so that users need not."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(
                type(value), serialized_type_name=f"{type(value).__module__}.{type(value).__qualname__}"
            )
        for field in dataclasses.fields(value):
            _register_dataclasses(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            _register_dataclasses(item)
    elif isinstance(value, tuple | list):
        for item in value:
            _register_dataclasses(item)
