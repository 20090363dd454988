"""`Recipe`: how a compiled model was made, so that it can be made again from other weights."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recfx.driver.options import Options
from recfx.errors import ArtifactError, PipelineError
from recfx.formats.folders import SealedFolder
from recfx.formats.records import decode
from recfx.pipeline import Pipeline

_CONSTANTS = "constants.safetensors"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The options that a refresh needs, and the dtypes and sizes of the weights.

    Attributes:
        options: As given to `optimize`; of a loaded model, `dynamic_shapes` is None or False.
        constants: The constant inputs' values.
        shapes: Parameter or buffer name -> dtype and sizes.
        source: The user's model, when it still exists.
    """

    options: Options
    constants: Mapping[str, torch.Tensor]
    shapes: Mapping[str, str]
    source: weakref.ref[torch.nn.Module] | None = None

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Writes the constants, and returns the rest as values for JSON; None if `dynamic_shapes` cannot be written."""
        options = self.options
        if options.dynamic_shapes not in (None, False):
            return None
        save_file({name: tensor.contiguous() for name, tensor in self.constants.items()}, folder / _CONSTANTS)
        return {
            "pipeline": str(options.pipeline),
            "target": options.target if isinstance(options.target, str) else list(options.target),
            "dynamic_shapes": options.dynamic_shapes,
            "max_batch": options.max_batch,
            "constants": list(self.constants),
            "tables": options.catalogue,
            "requests": {
                "request_inputs": list(options.request_inputs),
                "many_requests": options.many_requests,
                "check_requests": options.check_requests,
            },
            "shapes": dict(self.shapes),
            "copy_weights": options.copy_weights,
        }


@dataclasses.dataclass(frozen=True)
class _Requests:
    request_inputs: tuple[str, ...]
    many_requests: bool
    check_requests: bool


@dataclasses.dataclass(frozen=True)
class _SavedRecipe:
    """The document that `Recipe.save` returns."""

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
    """The recipe of a saved model, or None if the model was saved without a recipe.

    Raises:
        ArtifactError: The recipe is damaged, or names an unknown pass.
    """
    if document is None:
        return None
    where = folder.where("manifest.json") + ", recipe"
    saved: _SavedRecipe = decode(_SavedRecipe, document, where)
    tensors = folder.tensors(_CONSTANTS)
    contradicts = set(saved.constants) != set(tensors) or saved.dynamic_shapes is True or saved.max_batch < 1
    if contradicts or (saved.requests.many_requests and not saved.requests.request_inputs):
        raise ArtifactError(
            "the recipe contradicts itself in its constants, dynamic_shapes, max_batch or requests", where=where
        )
    options = Options(
        saved.target,
        _read_pipeline(saved.pipeline, where),
        dynamic_shapes=saved.dynamic_shapes,
        max_batch=saved.max_batch,
        request_inputs=saved.requests.request_inputs,
        many_requests=saved.requests.many_requests,
        check_requests=saved.requests.check_requests,
        catalogue=saved.tables,
        copy_weights=saved.copy_weights,
    )
    return Recipe(options, {name: tensors[name] for name in saved.constants}, saved.shapes)


def _read_pipeline(text: str, where: str) -> Pipeline:
    try:
        return Pipeline(text)
    except PipelineError as error:
        raise ArtifactError(
            f"the passes cannot be read: {error.what}",
            where=where,
            hint="import the modules that define them before loading",
        ) from error


def state_shapes(model: torch.nn.Module) -> dict[str, str]:
    """Dtype and sizes of every parameter and buffer."""
    return described({**dict(model.named_parameters()), **dict(model.named_buffers())})


def described(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name -> dtype and sizes: `float32[10, 4]`."""
    return {name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in tensors.items()}
