"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.batch_selects import BatchSelects
from recfx.passes.canonicalize import Canonicalize
from recfx.passes.fold_affine import FoldAffine
from recfx.passes.fold_batchnorm import FoldBatchnorm
from recfx.passes.fold_constants import FoldConstants
from recfx.passes.fold_linear_into_table import FoldLinearIntoTable
from recfx.passes.fuse_parallel_linears import FuseParallelLinears
from recfx.passes.merge_duplicates import MergeDuplicates
from recfx.passes.merge_tables import MergeTables
from recfx.passes.narrow_last_position import NarrowLastPosition
from recfx.passes.tabulate_towers import TabulateTowers

#: What keeps every bit. Constants are folded before duplicates are looked for, so that equal index tables merge too.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"

#: What `optimize` runs unless told otherwise. Affine folds come before batch norm is folded into what they leave.
#: Encoders are narrowed before anything is batched, since what is batched is read as a whole.
DEFAULT_PIPELINE = (
    "canonicalize,fold-constants,merge-tables,merge-duplicates,fold-affine,fold-batchnorm,fold-linear-into-table,"
    "narrow-last-position,fuse-parallel-linears,batch-selects"
)


__all__ = [
    "DEFAULT_PIPELINE",
    "EXACT_PIPELINE",
    "BatchSelects",
    "Canonicalize",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldConstants",
    "FoldLinearIntoTable",
    "FuseParallelLinears",
    "MergeDuplicates",
    "MergeTables",
    "NarrowLastPosition",
    "TabulateTowers",
]
