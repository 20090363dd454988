"""Models that the command line is given: a function of a script, or a program that `torch.export.save` wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recfx.errors import InputError
from recfx.pipeline.pass_files import load_pass_file

_HINT = "define def make_model(): return model, (input, ...)   or return a dict of the arguments of recfx.optimize"


@dataclasses.dataclass(frozen=True)
class GivenModel:
    """A model and its example.

    Attributes:
        model: The model, in eval mode.
        arguments: Arguments of `recfx.optimize`, among them `example_inputs`.
    """

    model: nn.Module
    arguments: Mapping[str, Any]


def load_model(text: str) -> GivenModel:
    """Loads `SCRIPT.py:function`, or a file that ends in `.pt2`.

    Raises:
        InputError: The file or the function does not exist, fails, or does not give a model and its example inputs.
    """
    if text.endswith(".pt2"):
        return _exported(Path(text))
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name:
        raise InputError(
            f"{text!r} is neither SCRIPT.py:function nor a .pt2 file",
            hint="such as models.py:make_model, or a program that torch.export.save wrote",
        )
    module = load_pass_file(Path(path))
    make = getattr(module, name, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(
            f"the file defines no function {name}", where=path, hint=f"it defines {', '.join(known) or 'none'}"
        )
    return _made(make, f"{path}:{name}")


def _made(make: Callable[[], Any], where: str) -> GivenModel:
    """What a user's function gives."""
    try:
        found = make()
    except Exception as error:
        raise InputError(
            f"the function failed: {type(error).__name__}: {error}",
            where=where,
            hint="call it without arguments in Python",
        ) from error
    if isinstance(found, Mapping):
        arguments = dict(found)
        model = arguments.pop("model", None)
    elif isinstance(found, tuple) and len(found) == 2:
        model, arguments = found[0], {"example_inputs": found[1]}
    else:
        model, arguments = found, {}
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a model and example inputs, got {type(found).__name__}", where=where, hint=_HINT)
    if "example_inputs" not in arguments:
        raise InputError("the example inputs are missing", where=where, hint=_HINT)
    return GivenModel(model.eval(), arguments)


def _exported(path: Path) -> GivenModel:
    if not path.is_file():
        raise InputError("no such file", where=str(path), hint="pass a program that torch.export.save wrote")
    try:
        program = torch.export.load(path)
        model = program.module(check_guards=False)
        for part in model.modules():
            part.training = False  # its eval() is an error, since the program is what it is
    except Exception as error:
        raise InputError(
            f"the file is not an exported program that this torch reads: {type(error).__name__}: {error}",
            where=str(path),
            hint="write it with torch.export.save of the same version of torch",
        ) from error
    if program.example_inputs is None:
        raise InputError(
            "the exported program holds no example inputs", where=str(path), hint="export and save the model again"
        )
    args, kwargs = program.example_inputs
    return GivenModel(model, {"example_inputs": tuple(args), "example_kwargs": dict(kwargs)})
