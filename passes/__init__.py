"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.batch_selects import BatchSelects
from recfx.passes.canonicalize import Canonicalize
from recfx.passes.fold_affine import FoldAffine
from recfx.passes.fold_batchnorm import FoldBatchnorm
from recfx.passes.fold_constants import FoldConstants
from recfx.passes.form_bags import FormBags
from recfx.passes.fuse_lookups import FuseLookups
from recfx.passes.merge_duplicates import MergeDuplicates
from recfx.passes.merge_tables import MergeTables

#: What keeps every bit. Constants are folded before duplicates are looked for, so that equal index tables merge too.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"

#: What `optimize` runs unless told otherwise. Affine folds come before batch norm is folded into what they leave.
DEFAULT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,fold-affine,fold-batchnorm,batch-selects"

#: The default passes and those that write the dialect, for backends with kernels of their own for it.
NATIVE_PIPELINE = f"{DEFAULT_PIPELINE},form-bags,fuse-lookups"

__all__ = [
    "DEFAULT_PIPELINE",
    "EXACT_PIPELINE",
    "NATIVE_PIPELINE",
    "BatchSelects",
    "Canonicalize",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldConstants",
    "FormBags",
    "FuseLookups",
    "MergeDuplicates",
    "MergeTables",
]
