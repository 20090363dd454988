"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.attention.fuse_target_attention import FuseTargetAttention
from recfx.passes.clean.batch_selects import BatchSelects
from recfx.passes.clean.canonicalize import Canonicalize
from recfx.passes.clean.merge_duplicates import MergeDuplicates
from recfx.passes.clean.merge_tables import MergeTables
from recfx.passes.cross.fuse_cross import FuseCross
from recfx.passes.cross.join_cross_experts import JoinCrossExperts
from recfx.passes.fold.fold_affine import FoldAffine
from recfx.passes.fold.fold_batchnorm import FoldBatchnorm
from recfx.passes.fold.fold_constants import FoldConstants
from recfx.passes.fold.fold_linear_into_table import FoldLinearIntoTable
from recfx.passes.hoist.hoist_requests import HoistRequests
from recfx.passes.interaction.fuse_dot_interaction import FuseDotInteraction
from recfx.passes.interaction.fuse_fm import FuseFm
from recfx.passes.lookups.form_bags import FormBags
from recfx.passes.lookups.fuse_lookups import FuseLookups
from recfx.passes.mlp.fuse_mlp import FuseMlp
from recfx.passes.mlp.fuse_parallel_linears import FuseParallelLinears
from recfx.passes.narrow.narrow_last_position import NarrowLastPosition
from recfx.passes.narrow.tabulate_towers import TabulateTowers
from recfx.passes.quantize.binarize_embeddings import BinarizeEmbeddings
from recfx.passes.quantize.quantize_embeddings import QuantizeEmbeddings
from recfx.passes.quantize.quantize_linears import QuantizeLinears
from recfx.passes.quantize.quantize_tables import QuantizeTables

#: What keeps every bit. Constants are folded before duplicates are looked for, so that equal index tables merge too.
EXACT_PIPELINE = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-selects"

#: What `optimize` runs unless told otherwise. Affine folds come before batch norm is folded into what they leave.
#: Encoders are narrowed before anything is batched, since what is batched is read as a whole.
DEFAULT_PIPELINE = (
    "canonicalize,fold-constants,merge-tables,merge-duplicates,join-cross-experts,fold-affine,fold-batchnorm,"
    "fold-linear-into-table,narrow-last-position,fuse-parallel-linears,batch-selects"
)


#: What the folds leave, in operators of the dialect: interactions before the lookups whose stacks they read and before linears are joined
#: across them, MLP chains last, as they take any linear. Equal products over different inputs stay apart: to a backend with kernels for the
#: dialect, one after another they cost no more.
DIALECT_PIPELINE = (
    "fuse-dot-interaction,fuse-fm,fuse-cross,fuse-target-attention,fuse-parallel-linears{max_weight=0},form-bags,"
    "fuse-lookups,fuse-mlp"
)

#: What `optimize` runs for such a backend.
NATIVE_PIPELINE = DEFAULT_PIPELINE.replace("fuse-parallel-linears,batch-selects", DIALECT_PIPELINE)

#: What follows the dialect passes at each precision.
PRECISIONS = {
    "fp32": "",
    "bf16": "quantize-tables{bits=16},quantize-linears{bits=16}",
    "int8": "quantize-tables{bits=8},quantize-linears{bits=8}",
}


def default_pipeline(*, requests: bool, dialect: bool, precision: str = "fp32") -> str:
    """The passes `optimize` runs unless told otherwise.

    Args:
        requests: Whether the model has request inputs. Hoisting comes after the folds, which simplify what it looks at, and before anything
            is batched, which would weld values of the request and of the candidates together.
        dialect: Whether the backend has kernels for the recfx dialect.
        precision: A key of PRECISIONS.
    """
    text = NATIVE_PIPELINE if dialect else DEFAULT_PIPELINE
    if PRECISIONS[precision]:
        text = f"{text},{PRECISIONS[precision]}"
    if not requests:
        return text
    # A sequence of which the candidate's position alone is read is narrowed to it before the rest is taken to the request.
    text = text.replace("narrow-last-position,", "").replace("fold-batchnorm,", "fold-batchnorm,narrow-last-position,")
    if dialect:
        # Its kernel does once for all rows what they share: nothing of it is to be split beforehand.
        text = text.replace("fuse-target-attention,", "").replace(
            "narrow-last-position,", "narrow-last-position,fuse-target-attention,"
        )
        return text.replace("fuse-target-attention,", "fuse-target-attention,hoist-requests,")
    return text.replace("narrow-last-position,", "narrow-last-position,hoist-requests,")


__all__ = [
    "DEFAULT_PIPELINE",
    "DIALECT_PIPELINE",
    "EXACT_PIPELINE",
    "NATIVE_PIPELINE",
    "PRECISIONS",
    "BatchSelects",
    "BinarizeEmbeddings",
    "Canonicalize",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldConstants",
    "FoldLinearIntoTable",
    "FormBags",
    "FuseCross",
    "FuseDotInteraction",
    "FuseFm",
    "FuseLookups",
    "FuseMlp",
    "FuseParallelLinears",
    "FuseTargetAttention",
    "HoistRequests",
    "JoinCrossExperts",
    "MergeDuplicates",
    "MergeTables",
    "NarrowLastPosition",
    "QuantizeEmbeddings",
    "QuantizeLinears",
    "QuantizeTables",
    "TabulateTowers",
    "default_pipeline",
]
