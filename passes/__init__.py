"""Built-in passes. Importing this package registers them by name."""

from recfx.passes.attention.fuse_attention_gru import FuseAttentionGru
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
from recfx.passes.interaction.batch_pairs import BatchPairs
from recfx.passes.interaction.batch_rounds import BatchRounds
from recfx.passes.interaction.fold_cin import FoldCin
from recfx.passes.interaction.fuse_cin import FuseCin
from recfx.passes.interaction.fuse_dot_interaction import FuseDotInteraction
from recfx.passes.interaction.fuse_fm import FuseFm
from recfx.passes.lookups.form_bags import FormBags
from recfx.passes.lookups.fuse_lookups import FuseLookups
from recfx.passes.mlp.factorize_linears import FactorizeLinears
from recfx.passes.mlp.fuse_mlp import FuseMlp
from recfx.passes.mlp.fuse_parallel_linears import FuseParallelLinears
from recfx.passes.narrow.narrow_last_position import NarrowLastPosition
from recfx.passes.narrow.tabulate_towers import TabulateTowers
from recfx.passes.prune.narrow_tables import NarrowTables
from recfx.passes.prune.prune_channels import PruneChannels
from recfx.passes.prune.remove_dead_channels import RemoveDeadChannels
from recfx.passes.prune.remove_fields import RemoveFields
from recfx.passes.prune.share_cold_rows import ShareColdRows
from recfx.passes.quantize.quantize_embeddings import BinarizeEmbeddings, QuantizeEmbeddings
from recfx.passes.quantize.quantize_linears import QuantizeLinears
from recfx.passes.quantize.quantize_tables import QuantizeTables
from recfx.passes.stages import (
    CALIBRATED,
    DEFAULT_PIPELINE,
    EXACT_PIPELINE,
    FUSED,
    NATIVE_PIPELINE,
    PRECISIONS,
    STAGES,
    Passes,
    Stage,
    default_pipeline,
    default_stages,
    precisions,
    with_extra_passes,
)

__all__ = [
    "CALIBRATED",
    "DEFAULT_PIPELINE",
    "EXACT_PIPELINE",
    "FUSED",
    "NATIVE_PIPELINE",
    "PRECISIONS",
    "STAGES",
    "BatchPairs",
    "BatchRounds",
    "BatchSelects",
    "BinarizeEmbeddings",
    "Canonicalize",
    "FactorizeLinears",
    "FoldAffine",
    "FoldBatchnorm",
    "FoldCin",
    "FoldConstants",
    "FoldLinearIntoTable",
    "FormBags",
    "FuseAttentionGru",
    "FuseCin",
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
    "NarrowTables",
    "Passes",
    "PruneChannels",
    "QuantizeEmbeddings",
    "QuantizeLinears",
    "QuantizeTables",
    "RemoveDeadChannels",
    "RemoveFields",
    "ShareColdRows",
    "Stage",
    "TabulateTowers",
    "default_pipeline",
    "default_stages",
    "precisions",
    "with_extra_passes",
]
