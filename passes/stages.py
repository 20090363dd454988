"""The default pipelines: named stages in a fixed order, each with the reason for its position."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from recfx.errors import PipelineError
from recfx.pipeline import Pass, Pipeline


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the default pipelines.

    Attributes:
        name: The name, as in `extra_passes={"after:NAME": ...}`.
        passes: Its passes, as text.
        reason: The reason for its position.
        forms: Operators that its passes form or prepare; the stage is left out if the target lacks one of these kernels.
        replaced_by: Operators whose kernels replace the stage; it is left out if the target has all these kernels.
        requests: True for models with request inputs only, False for models without them only, None for all.
    """

    name: str
    passes: str
    reason: str
    forms: tuple[str, ...] = ()
    replaced_by: tuple[str, ...] = ()
    requests: bool | None = None

    def belongs(self, *, kernels: Collection[str], requests: bool) -> bool:
        """Whether the stage is part of a pipeline.

        Args:
            kernels: Names of the operators that the target has kernels for.
            requests: Whether the model has request inputs.
        """
        replaced = bool(self.replaced_by) and all(name in kernels for name in self.replaced_by)
        return not replaced and all(name in kernels for name in self.forms) and self.requests in (None, requests)


STAGES = (
    Stage(
        "clean",
        "canonicalize,fold-constants,merge-tables,merge-duplicates",
        "First, since all matchers expect canonical graphs. Constants are folded before duplicates are merged, so that equal index "
        "tables merge too.",
    ),
    Stage(
        "experts",
        "join-cross-experts",
        "Before the folds, which would change single experts of a mixture.",
    ),
    Stage(
        "fold",
        "fold-affine,fold-batchnorm",
        "Affine operators are folded before batch norm is folded into the linears that they leave.",
    ),
    Stage(
        "dead-channels",
        "remove-dead-channels",
        "After the folds into linears, which multiply dead channels' weights with zero; before all operators of the dialect, through which "
        "channels are not followed.",
    ),
    Stage(
        "fold-tables",
        "fold-linear-into-table",
        "After the folds into linears, which cannot fold into a linear that is part of a table.",
        requests=False,
    ),
    Stage(
        "narrow",
        "narrow-last-position",
        "Before operators are batched, since batched operands are read whole; and before hoisting, so that a sequence of which only the "
        "candidate's position is read is narrowed to it before its other positions are hoisted.",
    ),
    Stage(
        "request-attention",
        "fuse-target-attention",
        "Before hoisting, which would split it: its kernel computes the shared part once for all rows.",
        forms=("recfx::target_attention",),
        requests=True,
    ),
    Stage(
        "hoist",
        "hoist-requests",
        "After the folds, which simplify its inputs, and before operators are batched, which would join values of the request and of the "
        "candidates.",
        requests=True,
    ),
    Stage(
        "request-tables",
        "fold-linear-into-table",
        "After hoisting, which separates the linears of the request.",
        requests=True,
    ),
    Stage(
        "interactions",
        "fuse-dot-interaction,fuse-fm,fuse-cross",
        "Before the lookups whose stacks they read, and before linears are joined across them.",
        forms=("recfx::dot_interaction", "recfx::fm", "recfx::cross"),
    ),
    Stage(
        "interaction-networks",
        "fuse-cin,fold-cin",
        "Before linears are joined and put into chains, which would hide the contractions that the pass matches.",
        forms=("recfx::cin",),
    ),
    Stage(
        "pairs",
        "batch-pairs",
        "After the interactions, which have kernels of their own; before linears are joined, which would hide the products behind them; "
        "and before the lookups, which write the gathered fields.",
    ),
    Stage(
        "batch",
        "fuse-parallel-linears,batch-selects",
        "Last on backends without kernels for the dialect: fewer and larger operators.",
        replaced_by=("recfx::mlp",),
    ),
    Stage(
        "attention",
        "fuse-target-attention",
        "Before linears are joined, which would hide the MLP that the pass matches.",
        forms=("recfx::target_attention",),
        requests=False,
    ),
    Stage(
        "recurrences",
        "fuse-attention-gru",
        "Before linears are joined and put into chains, which would hide the cells that the pass matches.",
        forms=("recfx::attention_gru",),
    ),
    Stage(
        "linears",
        "fuse-parallel-linears{max_weight=0}",
        "Linears of one input are joined. Equal products of different inputs stay apart: kernels run them one after another at no "
        "further cost.",
        forms=("recfx::mlp",),
    ),
    Stage(
        "lookups",
        "form-bags,fuse-lookups",
        "After the interactions, whose input buffers the grouped lookups write.",
        forms=("recfx::grouped_lookup",),
    ),
    Stage(
        "mlp",
        "fuse-mlp",
        "Last, since its chains replace all linears.",
        forms=("recfx::mlp",),
    ),
)

#: Precision -> the passes that follow the stages.
PRECISIONS = {
    "fp32": "",
    "bf16": "quantize-tables{bits=16},quantize-linears{bits=16}",
    "int8": "quantize-tables{bits=8},quantize-linears{bits=8}",
}

#: The same for precisions whose passes make use of calibration data, where there is any.
CALIBRATED = {"int8": "quantize-tables{bits=8},quantize-linears{bits=8, migrate=true, correct_bias=true}"}

#: Passes that keep every bit of the results.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"


#: Operators of the dialect that the stages form.
FUSED = frozenset(name for stage in STAGES for name in stage.forms)

#: Operators whose kernels take weights in every precision; a target without one of these kernels computes in fp32 only.
QUANTIZED = ("recfx::grouped_lookup", "recfx::mlp")


def precisions(kernels: Collection[str]) -> list[str]:
    """The precisions that a target computes in.

    Args:
        kernels: Names of the operators that the target has kernels for.
    """
    return list(PRECISIONS) if all(name in kernels for name in QUANTIZED) else ["fp32"]


def default_stages(
    *, requests: bool, kernels: Collection[str] = (), precision: str = "fp32", calibrated: bool = False
) -> tuple[Stage, ...]:
    """The stages that `optimize` runs by default.

    Args:
        requests: Whether the model has request inputs.
        kernels: Names of the operators that the target has kernels for, as `Backend.kernels` gives them.
        precision: A key of PRECISIONS.
        calibrated: Whether there is calibration data.
    """
    found = [stage for stage in STAGES if stage.belongs(kernels=kernels, requests=requests)]
    passes = CALIBRATED.get(precision, PRECISIONS[precision]) if calibrated else PRECISIONS[precision]
    if passes:
        found.append(Stage("quantize", passes, "After all passes that compute new weights."))
    return tuple(found)


def default_pipeline(
    *, requests: bool, kernels: Collection[str] = (), precision: str = "fp32", calibrated: bool = False
) -> str:
    """The passes of `default_stages`, as text."""
    stages = default_stages(requests=requests, kernels=kernels, precision=precision, calibrated=calibrated)
    return ",".join(stage.passes for stage in stages)


#: Passes as users write them between stages.
Passes = str | Pipeline | Pass | type[Pass] | Iterable[Pass | type[Pass] | str]


#: The place of extra passes without one: after it, operators have one spelling, and the stages that fuse operators follow.
DEFAULT_PLACE = "after:clean"


def with_extra_passes(stages: Sequence[Stage], extra: Mapping[str, Passes] | Passes) -> Pipeline:
    """The passes of some stages, with a user's passes between them.

    Args:
        stages: The stages.
        extra: "before:STAGE" or "after:STAGE" -> passes; or passes, which go to `DEFAULT_PLACE`.

    Raises:
        PipelineError: A key is not of this form, or the pipeline has no such stage.
    """
    names = [stage.name for stage in stages]
    placed: Mapping[str, Passes] = extra if isinstance(extra, Mapping) else {DEFAULT_PLACE: extra}
    for place in placed:
        side, _, name = place.partition(":")
        if side not in ("before", "after") or name not in names:
            raise PipelineError(
                f"extra_passes names {place!r}, which is not a place in this pipeline",
                hint=f'write "before:STAGE" or "after:STAGE"; stages: {", ".join(names)}',
            )
    found = Pipeline()
    for stage in stages:
        for item in (placed.get(f"before:{stage.name}"), stage.passes, placed.get(f"after:{stage.name}")):
            if item is not None:
                found = found + _pipeline(item)
    return found


def _pipeline(passes: Passes) -> Pipeline:
    return passes if isinstance(passes, Pipeline) else Pipeline(passes)


#: The pipeline of `optimize` on a target without kernels for the dialect, and on one with them, for a model without request inputs.
DEFAULT_PIPELINE = default_pipeline(requests=False)
NATIVE_PIPELINE = default_pipeline(requests=False, kernels=FUSED)
