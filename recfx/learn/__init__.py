"""Training with gradients: quantised embeddings trained end to end, the estimators behind it, and fine-tuning of programs."""

from recfx.hutchinson import TraceEstimate, hutchinson_trace
from recfx.learn.bounds import BOUNDS, Bounds, CentredRowBounds, LearnedBounds, MovingBounds, PerRowBounds, make_bounds
from recfx.learn.codes import BITS, QuantizedTable
from recfx.learn.composed_tables import QuotientRemainderTable, TensorTrainTable, compose_tables
from recfx.learn.curvature import Curvature
from recfx.learn.delta import DeltaSettings, deltas
from recfx.learn.distillation import Distillation, TopRDistillation, teacher_top
from recfx.learn.encoders import Encoder, GraphEncoder, TableEncoder, TowerEncoder, as_encoder
from recfx.learn.estimators import (
    ESTIMATORS,
    Estimator,
    FourierSeries,
    GaussianDirac,
    Guidance,
    HessianScaled,
    LearnedStepSize,
    StraightThrough,
)
from recfx.learn.finetuning import (
    FakeQuantized,
    FineTuned,
    GraduallyPruned,
    distill,
    fake_quantize,
    finetune,
    prune_gradually,
)
from recfx.learn.losses import BCE, BPR, Diagonal, RankingLoss, SampledSoftmax
from recfx.learn.quantized_model import Batch, QuantizedModel, Rows
from recfx.learn.quantizer import Grid, Quantizer, make_quantizer
from recfx.learn.ranked_distillation import RankedDistillation
from recfx.learn.sampling import EpochSampler, Sampler
from recfx.learn.train_settings import TrainReport, TrainSettings
from recfx.learn.trainer import Evaluate, Trainer

__all__ = [
    "BCE",
    "BITS",
    "BOUNDS",
    "BPR",
    "ESTIMATORS",
    "Batch",
    "Bounds",
    "CentredRowBounds",
    "Curvature",
    "DeltaSettings",
    "Diagonal",
    "Distillation",
    "Encoder",
    "EpochSampler",
    "Estimator",
    "Evaluate",
    "FakeQuantized",
    "FineTuned",
    "FourierSeries",
    "GaussianDirac",
    "GraduallyPruned",
    "GraphEncoder",
    "Grid",
    "Guidance",
    "HessianScaled",
    "LearnedBounds",
    "LearnedStepSize",
    "MovingBounds",
    "PerRowBounds",
    "QuantizedModel",
    "QuantizedTable",
    "Quantizer",
    "QuotientRemainderTable",
    "RankedDistillation",
    "RankingLoss",
    "Rows",
    "SampledSoftmax",
    "Sampler",
    "StraightThrough",
    "TableEncoder",
    "TensorTrainTable",
    "TopRDistillation",
    "TowerEncoder",
    "TraceEstimate",
    "TrainReport",
    "TrainSettings",
    "Trainer",
    "as_encoder",
    "compose_tables",
    "deltas",
    "distill",
    "fake_quantize",
    "finetune",
    "hutchinson_trace",
    "make_bounds",
    "make_quantizer",
    "prune_gradually",
    "teacher_top",
]
