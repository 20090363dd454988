"""The default pipelines: named stages in a fixed order, each with the reason why it stands where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from recfx.errors import PipelineError
from recfx.pipeline import Pass, Pipeline


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the default pipelines.

    Attributes:
        name: What users call it: "after:fold".
        passes: Its passes, as text.
        reason: Why it stands where it stands.
        dialect: True when it is only for backends with kernels for the recfx dialect, False when it is only for others, None for all.
        requests: The same for models with request inputs.
    """

    name: str
    passes: str
    reason: str
    dialect: bool | None = None
    requests: bool | None = None

    def belongs(self, *, dialect: bool, requests: bool) -> bool:
        """Whether the stage is part of the pipeline of such backends and models."""
        return self.dialect in (None, dialect) and self.requests in (None, requests)


STAGES = (
    Stage(
        "clean",
        "canonicalize,fold-constants,merge-tables,merge-duplicates",
        "First, since all matchers read what it leaves. Constants are folded before duplicates are looked for, so that equal index "
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
        "fold-tables",
        "fold-linear-into-table",
        "Behind the folds into linears, since a linear that became part of a table takes no more of them.",
        requests=False,
    ),
    Stage(
        "narrow",
        "narrow-last-position",
        "Before anything is batched, since what is batched is read as a whole; and before hoisting, so that a sequence of which only the "
        "candidate's position is read is narrowed to it before the rest goes to the request.",
    ),
    Stage(
        "request-attention",
        "fuse-target-attention",
        "Before hoisting, which would split it: its kernel computes once for all rows what they share.",
        dialect=True,
        requests=True,
    ),
    Stage(
        "hoist",
        "hoist-requests",
        "Behind the folds, which simplify what it looks at, and before anything is batched, which would weld values of the request and of "
        "the candidates together.",
        requests=True,
    ),
    Stage(
        "request-tables",
        "fold-linear-into-table",
        "Behind hoisting, which takes linears of the request out of the way.",
        requests=True,
    ),
    Stage(
        "batch",
        "fuse-parallel-linears,batch-selects",
        "Last on backends without kernels for the dialect: fewer and larger operators.",
        dialect=False,
    ),
    Stage(
        "interactions",
        "fuse-dot-interaction,fuse-fm,fuse-cross",
        "Before the lookups whose stacks they read, and before linears are joined across them.",
        dialect=True,
    ),
    Stage(
        "attention",
        "fuse-target-attention",
        "Before linears are joined: its MLP is matched as it was written.",
        dialect=True,
        requests=False,
    ),
    Stage(
        "linears",
        "fuse-parallel-linears{max_weight=0}",
        "Linears of one input are joined. Equal products of different inputs stay apart: kernels run them one after another at no "
        "further cost.",
        dialect=True,
    ),
    Stage(
        "lookups",
        "form-bags,fuse-lookups",
        "Behind the interactions, whose buffers the grouped lookups write.",
        dialect=True,
    ),
    Stage(
        "mlp",
        "fuse-mlp",
        "Last, since a chain takes any linear.",
        dialect=True,
    ),
)

#: What follows the dialect's stages at each precision.
PRECISIONS = {
    "fp32": "",
    "bf16": "quantize-tables{bits=16},quantize-linears{bits=16}",
    "int8": "quantize-tables{bits=8},quantize-linears{bits=8}",
}

#: What keeps every bit.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"


def default_stages(*, requests: bool, dialect: bool, precision: str = "fp32") -> tuple[Stage, ...]:
    """The stages that `optimize` runs unless told otherwise.

    Args:
        requests: Whether the model has request inputs.
        dialect: Whether the backend has kernels for the recfx dialect.
        precision: A key of PRECISIONS.
    """
    found = [stage for stage in STAGES if stage.belongs(dialect=dialect, requests=requests)]
    if PRECISIONS[precision]:
        found.append(Stage("quantize", PRECISIONS[precision], "Behind all that computes new weights."))
    return tuple(found)


def default_pipeline(*, requests: bool, dialect: bool, precision: str = "fp32") -> str:
    """The passes of `default_stages`, as text."""
    return ",".join(stage.passes for stage in default_stages(requests=requests, dialect=dialect, precision=precision))


#: Passes as users write them between stages.
Passes = str | Pipeline | Pass | type[Pass] | Iterable[Pass | type[Pass] | str]


def with_extra_passes(stages: Sequence[Stage], extra: Mapping[str, Passes]) -> Pipeline:
    """The passes of some stages with the user's own in between.

    Args:
        stages: The stages.
        extra: "before:STAGE" or "after:STAGE" -> passes.

    Raises:
        PipelineError: There is no such stage in this pipeline.
    """
    names = [stage.name for stage in stages]
    for place in extra:
        side, _, name = place.partition(":")
        if side not in ("before", "after") or name not in names:
            raise PipelineError(
                f"extra_passes names {place!r}, which is no place in this pipeline",
                hint=f'write "before:STAGE" or "after:STAGE"; stages: {", ".join(names)}',
            )
    found = Pipeline()
    for stage in stages:
        for item in (extra.get(f"before:{stage.name}"), stage.passes, extra.get(f"after:{stage.name}")):
            if item is not None:
                found = found + _pipeline(item)
    return found


def _pipeline(passes: Passes) -> Pipeline:
    if isinstance(passes, Pipeline):
        return passes
    return Pipeline([passes] if isinstance(passes, Pass | type) else passes)


#: What `optimize` runs for a backend without kernels for the dialect, and for one with them, of a model without request inputs.
DEFAULT_PIPELINE = default_pipeline(requests=False, dialect=False)
NATIVE_PIPELINE = default_pipeline(requests=False, dialect=True)
