"""The description of a training run as plain text, so that only the same experiment continues a checkpoint. An object
is described by its class and the arguments of its constructor, which it keeps under their names (with or without a
leading underscore), and a tensor by a digest of its content. State that training changes (parameters, buffers,
optimisers) is part of the checkpoint itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recfx.errors import ArtifactError

_DEEPEST = 6


def fingerprint(**objects: Any) -> dict[str, str]:
    """Path -> description of the arguments that the objects were constructed from."""
    found: dict[str, str] = {}
    for name, value in objects.items():
        _describe(name, value, found, 0)
    return found


def of_sample(sample: tuple[Tensor, ...]) -> dict[str, str]:
    """The fingerprint of a batch of samples: sizes and content."""
    users, _, negatives = sample
    drawn = 1 if negatives.ndim == 1 else negatives.shape[1]
    return {"batch size": str(len(users)), "negatives": str(drawn), "samples": _digest(sample)}


def of_tensors(values: Iterable[Any]) -> dict[str, str]:
    """The fingerprint of a batch of any tensors."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return {"batch": _digest(tensors), "tensors": ", ".join(map(_plain_type, tensors))}


def require_same(before: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Compares the fingerprints of a checkpoint and of the run that would continue it.

    Raises:
        ArtifactError: They differ; the message lists every difference.
    """
    differences = [
        f"{name} was {before.get(name, 'not there')}, now it is {now.get(name, 'not there')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise ArtifactError(
            "the checkpoint belongs to another experiment: " + "; ".join(differences),
            where=where,
            hint="train into another folder, or use the settings of the checkpoint",
        )


def _describe(name: str, value: Any, found: dict[str, str], depth: int) -> None:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        found[name] = repr(value)
    elif isinstance(value, Tensor):
        found[name] = f"{_plain_type(value)} {_digest([value])}"
    elif isinstance(value, torch.Generator | torch.device | torch.dtype) or (callable(value) and _is_function(value)):
        return  # a generator's state is in the checkpoint, and functions have no stable name
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _describe(f"{name}.{key}", item, found, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _describe(f"{name}.{index}", item, found, depth + 1)
    else:
        _describe_object(name, value, found, depth)


def _describe_object(name: str, value: Any, found: dict[str, str], depth: int) -> None:
    found[name] = type(value).__qualname__
    if depth >= _DEEPEST:
        return
    for argument in _arguments(type(value)):
        for attribute in (argument, f"_{argument}"):
            held = vars(value).get(attribute, found)  # `found` means that the attribute is missing
            if held is not found:
                _describe(f"{name}.{argument}", held, found, depth + 1)
                break
    if isinstance(value, nn.Module):
        for key, parameter in value.named_parameters(recurse=False):
            found[f"{name}.{key}"] = _plain_type(parameter) + ("" if parameter.requires_grad else " frozen")
        for key, child in value.named_children():
            _describe(f"{name}.{key}", child, found, depth + 1)


def _arguments(kind: type) -> Iterable[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.init]
    constructor: Any = getattr(kind, "__init__")  # noqa: B009 - mypy does not let it be read by name
    parameters = inspect.signature(constructor).parameters.values()
    return [p.name for p in list(parameters)[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, type)


def _plain_type(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _digest(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(_plain_type(tensor).encode())
        dense = tensor.detach().cpu()
        dense = dense.to_dense() if dense.layout is not torch.strided else dense
        found.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b"")
    return found.hexdigest()[:16]
