"""What it takes to optimize a model again with new weights: `CompiledModel.refresh`."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils import _pytree as pytree

from recfx.compiled import Parts
from recfx.driver.constant_inputs import hold_constants
from recfx.errors import ArtifactError, InputError, PipelineError
from recfx.formats.folders import SealedFolder
from recfx.formats.records import decode
from recfx.ir.program import Program
from recfx.pipeline import Pipeline

_CONSTANTS = "constants.safetensors"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The arguments of `optimize` that a refresh needs, and what the weights looked like.

    Attributes:
        pipeline: The passes.
        target: Where the model runs.
        dynamic_shapes: As given; of a loaded model only None and False.
        max_batch: The largest batch.
        constants: The constant inputs' values.
        tables: Whether they are a catalogue.
        requests: What was said of request inputs.
        shapes: Parameter or buffer name -> dtype and sizes.
        copy_weights: Whether the compiled model has weights of its own.
        source: The user's model, when it is still there.
    """

    pipeline: Pipeline
    target: str | tuple[str, ...]
    dynamic_shapes: Any
    max_batch: int
    constants: Mapping[str, torch.Tensor]
    tables: bool
    requests: Mapping[str, Any]
    shapes: Mapping[str, str]
    copy_weights: bool = False
    source: weakref.ref[torch.nn.Module] | None = None

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Writes the constants and returns the rest as plain values; None when the recipe has no plain form."""
        if self.dynamic_shapes not in (None, False):
            return None
        save_file({name: tensor.contiguous() for name, tensor in self.constants.items()}, folder / _CONSTANTS)
        return {
            "pipeline": str(self.pipeline),
            "target": self.target if isinstance(self.target, str) else list(self.target),
            "dynamic_shapes": self.dynamic_shapes,
            "max_batch": self.max_batch,
            "constants": list(self.constants),
            "tables": self.tables,
            "requests": dict(self.requests),
            "shapes": dict(self.shapes),
            "copy_weights": self.copy_weights,
        }


@dataclasses.dataclass(frozen=True)
class _Requests:
    request_inputs: tuple[str, ...]
    many_requests: bool
    check_requests: bool


@dataclasses.dataclass(frozen=True)
class _SavedRecipe:
    """What `Recipe.save` returns."""

    pipeline: str
    target: str | tuple[str, ...]
    dynamic_shapes: bool | None
    max_batch: int
    constants: tuple[str, ...]
    tables: bool
    requests: _Requests
    shapes: dict[str, str]
    copy_weights: bool


def load_recipe(document: Any, folder: SealedFolder) -> Recipe | None:
    """The recipe of a saved model, or None when it was saved without.

    Raises:
        ArtifactError: It is damaged, or names a pass that is not known here.
    """
    if document is None:
        return None
    import recfx.passes  # noqa: F401 - so that the pipeline's text knows the built-in passes

    where = folder.where("manifest.json") + ", recipe"
    saved: _SavedRecipe = decode(_SavedRecipe, document, where)
    tensors = folder.tensors(_CONSTANTS)
    if set(saved.constants) != set(tensors) or saved.dynamic_shapes is True or saved.max_batch < 1:
        raise ArtifactError("the recipe contradicts itself", where=where)
    try:
        pipeline = Pipeline(saved.pipeline)
    except PipelineError as error:
        raise ArtifactError(
            f"the passes cannot be read: {error.what}",
            where=where,
            hint="import the modules that define them before loading",
        ) from error
    return Recipe(
        pipeline,
        saved.target,
        saved.dynamic_shapes,
        saved.max_batch,
        {name: tensors[name] for name in saved.constants},
        saved.tables,
        dataclasses.asdict(saved.requests),
        saved.shapes,
        saved.copy_weights,
    )


def state_shapes(model: torch.nn.Module) -> dict[str, str]:
    """Dtype and sizes of every parameter and buffer."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in found.items()}


def refreshed(
    parts: Parts, model: torch.nn.Module | None, example_inputs: Any, constant_inputs: Mapping[str, torch.Tensor] | None
) -> Parts:
    """The same model optimized again, from the weights as they are now.

    Raises:
        ArtifactError: The model was saved without what a refresh needs.
        InputError: There is no model or no example to refresh from, or weights or constants have other shapes than before.
    """
    from recfx.optimizer import optimize

    recipe = parts.recipe
    if recipe is None:
        raise ArtifactError(
            "this model does not know how it was made",
            hint="models saved with dynamic_shapes of their own cannot be refreshed: call recfx.optimize again",
        )
    source = model if model is not None else recipe.source() if recipe.source is not None else None
    if source is None:
        raise InputError(
            "there is no model to refresh from",
            hint="pass it: compiled.refresh(model); a loaded model has none of its own",
        )
    _require_same(recipe.shapes, state_shapes(source), "weight")
    constants = {**recipe.constants, **(constant_inputs or {})}
    if unknown := set(constants) - set(recipe.constants):
        raise InputError(f"{sorted(unknown)[0]!r} was not declared constant when the model was optimized")
    _require_same(_described(recipe.constants), _described(constants), "constant input")
    args, kwargs = _example(parts.program, example_inputs)
    made = optimize(
        source,
        list(recipe.target) if not isinstance(recipe.target, str) else recipe.target,
        example_inputs=args,
        example_kwargs=kwargs,
        pipeline=recipe.pipeline,
        dynamic_shapes=recipe.dynamic_shapes,
        max_batch=recipe.max_batch,
        measure=False,
        constant_inputs=constants or None,
        tables=recipe.tables,
        copy_weights=recipe.copy_weights,
        **recipe.requests,
    ).parts
    held = hold_constants(source, constants, recipe.tables, args, kwargs or {})
    fresh = _as_measured(made, parts, held.model)
    if made.one_row is not None and parts.one_row is not None:
        fresh = fresh.with_one_row(_as_measured(made.one_row, parts.one_row, held.model))
    return fresh


def _as_measured(made: Parts, before: Parts, model: torch.nn.Module) -> Parts:
    """New parts with the measurements of the former ones: what was slower than the user's model then is slower now."""
    from recfx.driver.measure import bind_user_model

    report = dataclasses.replace(made.report, measured=before.report.measured, kept_eager=before.report.kept_eager)
    run = bind_user_model(made, model) if report.kept_eager else made.run
    parts = Parts(made.program, made.regions, report, run, recipe=made.recipe)
    parts.watch = None if report.kept_eager else made.watch
    return parts


def _described(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items()}


def _require_same(before: Mapping[str, str], now: Mapping[str, str], kind: str) -> None:
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise InputError(
                f"the {kind} {name!r} was {before.get(name, 'not there')}, now it is {now.get(name, 'not there')}",
                hint="a refresh takes new values of the same shapes: call recfx.optimize for a changed model",
            )


def _example(program: Program, given: Any) -> tuple[Any, dict[str, Any] | None]:
    signature = program.signature
    if given is not None:
        return given, None
    if len(program.example) != len(signature.leaves) or not signature.leaves:
        raise InputError(
            "a loaded model has no example inputs", hint="pass them: compiled.refresh(model, example_inputs=(...))"
        )
    values: Sequence[Any] = pytree.tree_unflatten(list(program.example), signature.in_spec)[0]
    named = dict(zip(signature.parameters, values, strict=True))
    keyword = {name: value for name, value in named.items() if name in signature.keyword_only}
    return tuple(value for name, value in named.items() if name not in keyword), keyword
