"""`CompiledModel.refresh`: makes the same model again from the current weights."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from recfx.capture.inputs import split_example
from recfx.driver.build import build
from recfx.driver.constant_inputs import hold_constants
from recfx.driver.parts import Parts
from recfx.driver.recipe import Recipe, described, state_shapes
from recfx.driver.user_model import bind_user_model
from recfx.driver.weight_watch import copied
from recfx.errors import ArtifactError, InputError
from recfx.ir.program import Program

_UNCERTIFIED = "the accuracy budget was certified for the former weights: optimize again with budget= to certify these"


def refreshed(
    parts: Parts, model: torch.nn.Module | None, example_inputs: Any, constant_inputs: Mapping[str, torch.Tensor] | None
) -> Parts:
    """The same model, optimized again from the current weights.

    Args:
        parts: The present compiled model.
        model: The model with the new weights; None for the model that was given to `optimize`.
        example_inputs: As for `optimize`; None for the example that the program holds.
        constant_inputs: New values of some constant inputs.

    Raises:
        ArtifactError: The model was saved without the data that a refresh needs.
        InputError: The model or the example to refresh from is missing, or weights or constants have other shapes than before.
    """
    recipe = parts.recipe
    if recipe is None:
        raise ArtifactError(
            "this model was saved without the options that a refresh needs",
            hint="models with their own dynamic_shapes cannot be refreshed after loading: call recfx.optimize again",
        )
    source = _source(recipe, model)
    _require_same(recipe.shapes, state_shapes(source), "weight")
    constants = {**recipe.constants, **(constant_inputs or {})}
    if unknown := set(constants) - set(recipe.constants):
        raise InputError(
            f"{sorted(unknown)[0]!r} was not declared constant when the model was optimized",
            hint=f"declared: {', '.join(map(repr, recipe.constants)) or 'no inputs'}",
        )
    _require_same(described(recipe.constants), described(constants), "constant input")
    args, kwargs = _example(parts.program) if example_inputs is None else split_example(example_inputs, source)
    options = dataclasses.replace(recipe.options, measure=False, constant_inputs=constants or None)
    compiled = copied(source) if options.copy_weights else source
    layouts = [each.plans.layout() for each in (parts, parts.one_row) if each is not None]
    made = build(compiled, options, args, kwargs, weakref.ref(source), layouts)

    def user_model() -> torch.nn.Module:
        return hold_constants(source, constants, options.catalogue, args, kwargs).model

    fresh = _as_measured(made, parts, user_model)
    if made.one_row is not None:
        fresh = fresh.with_one_row(_as_measured(made.one_row, parts.one_row or parts, user_model))
    return fresh


def _source(recipe: Recipe, model: torch.nn.Module | None) -> torch.nn.Module:
    """The model with the new weights."""
    source = model if model is not None else recipe.source() if recipe.source is not None else None
    if source is None:
        raise InputError(
            "the model to refresh from is missing",
            hint="pass it: compiled.refresh(model); a loaded model does not hold it",
        )
    return source


def _as_measured(made: Parts, before: Parts, user_model: Callable[[], torch.nn.Module]) -> Parts:
    """New parts with the measurements of the former parts: if the user's model ran before, it runs again."""
    report = dataclasses.replace(made.report, measured=before.report.measured, kept_eager=before.report.kept_eager)
    if before.report.budget is not None or _UNCERTIFIED in before.report.notices:
        report = dataclasses.replace(report, notices=(*report.notices, _UNCERTIFIED))
    if report.left_to_torch == before.report.left_to_torch:
        report = dataclasses.replace(report, torch_operators=before.report.torch_operators)
    run = bind_user_model(made, user_model()) if report.kept_eager else made.run
    parts = Parts(made.placed, report, run, recipe=made.recipe, plans=made.plans)
    parts.watch = None if report.kept_eager else made.watch
    return parts


def _require_same(before: Mapping[str, str], now: Mapping[str, str], kind: str) -> None:
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise InputError(
                f"the {kind} {name!r} was {before.get(name, 'missing')}, now it is {now.get(name, 'missing')}",
                hint="a refresh takes new values of the same shapes: call recfx.optimize for a changed model",
            )


def _example(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example that a program holds, as arguments of the user's model.

    Raises:
        InputError: The program holds no example.
    """
    signature = program.signature
    if len(program.example) != len(signature.leaves) or not signature.leaves:
        raise InputError(
            "a loaded model has no example inputs", hint="pass them: compiled.refresh(model, example_inputs=(...))"
        )
    return signature.unpacked(program.example)
