"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.batch_selects import BatchSelects
from recfx.passes.canonicalize import Canonicalize
from recfx.passes.fold_affine import FoldAffine
from recfx.passes.fold_batchnorm import FoldBatchnorm
from recfx.passes.fold_constants import FoldConstants
from recfx.passes.hoist_requests import HoistRequests
from recfx.passes.merge_duplicates import MergeDuplicates
from recfx.passes.merge_tables import MergeTables

#: What keeps every bit. Constants are folded before duplicates are looked for, so that equal index tables merge too.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"

#: What `optimize` runs unless told otherwise. Affine folds come before batch norm is folded into what they leave.
DEFAULT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,fold-affine,fold-batchnorm,batch-selects"

#: What `optimize` runs for a model with request inputs: hoisting comes after the folds, which simplify what it looks at, and before
#: anything is batched, which would weld values of the request and of the candidates together.
REQUEST_PIPELINE = DEFAULT_PIPELINE.replace("fold-batchnorm,", "fold-batchnorm,hoist-requests,")

__all__ = [
    "DEFAULT_PIPELINE",
    "EXACT_PIPELINE",
    "REQUEST_PIPELINE",
    "BatchSelects",
    "Canonicalize",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldConstants",
    "HoistRequests",
    "MergeDuplicates",
    "MergeTables",
]
