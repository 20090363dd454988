"""recfx: a graph optimiser for recommendation models on PyTorch.

fast = recfx.optimize(model, target="cpu", example_inputs=(dense, sparse))
scores = fast(dense, sparse)
print(fast.report)
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from recfx.errors import RecfxError
from recfx.fewer_collections import fewer_collections
from recfx.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from recfx import testing
    from recfx.budget import AUC, Budget, Front, LogLoss, RowMetric
    from recfx.compiled import CompiledModel, explain, load
    from recfx.errors import (
        ArtifactError,
        CaptureError,
        DataError,
        InputError,
        PassError,
        PipelineError,
        TargetError,
        VerificationError,
    )
    from recfx.export import export_onnx, export_qdq
    from recfx.ir import Exactness, Program
    from recfx.optimizer import optimize
    from recfx.pareto_front import pareto
    from recfx.pipeline import Miss, Pass, PassContext, PassSpec, Pipeline, register
    from recfx.pipeline.rewrite import rewrite

#: Public name -> the module it lives in; imported at first use, so that `import recfx` stays quick.
_PUBLIC = {
    "AUC": "recfx.budget",
    "ArtifactError": "recfx.errors",
    "Budget": "recfx.budget",
    "CaptureError": "recfx.errors",
    "CompiledModel": "recfx.compiled",
    "DataError": "recfx.errors",
    "Exactness": "recfx.ir",
    "Front": "recfx.budget",
    "InputError": "recfx.errors",
    "LogLoss": "recfx.budget",
    "Miss": "recfx.pipeline",
    "Pass": "recfx.pipeline",
    "PassContext": "recfx.pipeline",
    "PassError": "recfx.errors",
    "PassSpec": "recfx.pipeline",
    "Pipeline": "recfx.pipeline",
    "PipelineError": "recfx.errors",
    "Program": "recfx.ir",
    "RowMetric": "recfx.budget",
    "TargetError": "recfx.errors",
    "VerificationError": "recfx.errors",
    "explain": "recfx.compiled",
    "export_onnx": "recfx.export",
    "export_qdq": "recfx.export",
    "load": "recfx.compiled",
    "optimize": "recfx.optimizer",
    "pareto": "recfx.pareto_front",
    "register": "recfx.pipeline",
    "rewrite": "recfx.pipeline",
}

__all__ = [
    "AUC",
    "ArtifactError",
    "Budget",
    "CaptureError",
    "CompiledModel",
    "DataError",
    "Exactness",
    "Front",
    "InputError",
    "LogLoss",
    "Miss",
    "Pass",
    "PassContext",
    "PassError",
    "PassSpec",
    "Pipeline",
    "PipelineError",
    "Program",
    "RecfxError",
    "RowMetric",
    "TargetError",
    "VerificationError",
    "explain",
    "export_onnx",
    "export_qdq",
    "load",
    "optimize",
    "pareto",
    "register",
    "rewrite",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("recfx.testing")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recfx' has no attribute {name!r}")
    with fewer_collections(imports=True):
        if name == "Pipeline":
            importlib.import_module("recfx.passes")  # so that text pipelines know the built-in passes
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def _restored(files: dict[str, Any], cast_inputs: bool) -> Any:
    """`recfx.compiled.restored`, imported when a pickle needs it."""
    return importlib.import_module("recfx.compiled").restored(files, cast_inputs)


if "torch" in sys.modules:
    # So that `torch.load` reads compiled models with its default, `weights_only=True`: unpickling runs the checks of `load`.
    sys.modules["torch"].serialization.add_safe_globals([(_restored, "recfx.compiled.restored")])


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
