"""`recfx compress`: a trained model within an accuracy budget, or its front of accuracy, time and bytes, from data in a file."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from recfx.budget import AUC, Budget
from recfx.data import load_ctr
from recfx.errors import InputError
from recfx.model_files import GivenModel, load_model
from recfx.optimizer import optimize
from recfx.pareto_front import pareto
from recfx.preconditions import require_output

_OWN = "return a dict with model, example_inputs, evaluate= and calibration= from the function, and leave out --data"


def compress(options: argparse.Namespace) -> str:
    """Runs the command.

    Returns:
        What was made and where it is.

    Raises:
        RecfxError: The options do not go together, or see `recfx.optimize` and `recfx.pareto`.
    """
    budget = _checked(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = load_model(options.model)
    arguments = {**given.arguments, **_from_data(options, given)}
    if options.target is not None:
        arguments["target"] = options.target
    if budget is None:
        return _front(options, given, arguments)
    _require_known(arguments, optimize, options.model)
    fast = optimize(given.model, **arguments, budget=budget)
    fast.save(options.output)
    return f"{fast.report}\n{fast.report.budget}\nsaved in {options.output}: recfx.load({str(options.output)!r})"


def _front(options: argparse.Namespace, given: GivenModel, arguments: dict[str, Any]) -> str:
    _require_known(arguments, pareto, options.model)
    front = pareto(given.model, **arguments, folder=options.pareto, points=options.points, max_drop=options.max_drop)
    lines = [str(front)]
    if front.points:
        lines.append(f"saved in {options.pareto}: recfx.load({str(front.path(front.points[-1]))!r})")
    return "\n".join(lines)


def _require_known(arguments: Mapping[str, Any], function: Callable[..., Any], where: str) -> None:
    """Checks that a function takes what the user's function returned.

    Raises:
        InputError: It does not take an argument.
    """
    known = inspect.signature(function).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise InputError(
            f"recfx.{function.__name__} has no argument {unknown[0]}",
            where=where,
            hint=f"return only {', '.join(name for name in known if name != 'model')}",
        )


def _checked(options: argparse.Namespace) -> Budget | None:
    """The budget, after checks that need neither the model nor the data."""
    if options.pareto is None:
        budget = Budget(options.budget, prefer=options.prefer)
        if options.output is None:
            raise InputError("--budget needs a folder for the model", where="-o", hint="such as -o model.recfx")
        require_output(options.output)
    else:
        budget = None
        Budget(options.max_drop, prefer=options.prefer)
        if options.output is not None:
            raise InputError("--pareto saves its forms in its own folder", where="-o", hint="leave out -o")
    if options.data is None and (options.label is not None or options.rows is not None):
        raise InputError("--label and --rows go with --data", where="--data", hint="pass the file of the rows")
    if options.data is not None and not options.data.exists():
        raise InputError("no such file", where=str(options.data), hint="check the path of --data")
    return budget


def _from_data(options: argparse.Namespace, given: GivenModel) -> dict[str, Any]:
    """The metric and the calibration data from a file; nothing if the function gives its own."""
    own = "evaluate" in given.arguments
    if own and options.data is not None:
        raise InputError("the function returns evaluate, and --data was given", where="--data", hint="leave out one")
    if own:
        return {}
    if options.data is None:
        raise InputError(
            "--data is missing, from which AUC is computed", where="--data", hint=f"pass a file, or {_OWN}"
        )
    data = load_ctr(options.data, max_rows=options.rows, seed=options.seed, label=options.label)
    two = data.valid.inputs(torch.arange(2))
    try:
        with torch.no_grad():
            scores = given.model(*two)
    except Exception as error:
        raise InputError(
            f"the model fails on two rows of the data, (dense [2, {two[0].shape[1]}], sparse [2, {two[1].shape[1]}]): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            where=options.model,
            hint=f"encode the data as for its training, or {_OWN}",
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.numel() != 2:
        raise InputError("the model does not give one score for each row", where=options.model, hint=_OWN)
    return {"evaluate": AUC(data.valid, seed=options.seed), "calibration": data.train}
