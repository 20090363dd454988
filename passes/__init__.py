"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.batch_selects import BatchSelects
from recfx.passes.canonicalize import Canonicalize
from recfx.passes.fold_affine import FoldAffine
from recfx.passes.fold_batchnorm import FoldBatchnorm
from recfx.passes.fold_constants import FoldConstants
from recfx.passes.fuse_cross import FuseCross
from recfx.passes.fuse_dot_interaction import FuseDotInteraction
from recfx.passes.fuse_fm import FuseFm
from recfx.passes.fuse_mlp import FuseMlp
from recfx.passes.merge_duplicates import MergeDuplicates
from recfx.passes.merge_tables import MergeTables

#: What keeps every bit. Constants are folded before duplicates are looked for, so that equal index tables merge too.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"

#: What `optimize` runs unless told otherwise. Affine folds come before batch norm is folded into what they leave.
DEFAULT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,fold-affine,fold-batchnorm,batch-selects"

#: What the default pipeline leaves, in operators of the dialect: interactions and lookups first, MLP chains last, as they take any linear.
NATIVE_PIPELINE = ",".join(
    [
        DEFAULT_PIPELINE,
        "fuse-dot-interaction",
        "fuse-fm",
        "fuse-cross",
        "fuse-mlp",
    ]
)

__all__ = [
    "DEFAULT_PIPELINE",
    "EXACT_PIPELINE",
    "NATIVE_PIPELINE",
    "BatchSelects",
    "Canonicalize",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldConstants",
    "FuseCross",
    "FuseDotInteraction",
    "FuseFm",
    "FuseMlp",
    "MergeDuplicates",
    "MergeTables",
]
