"""Data sets, generators, metrics and a small trainer, for demos and benchmarks."""

from __future__ import annotations

from recfx.data.batches import Batches, tensor_batches
from recfx.data.bootstrap import Interval, auc_difference, auc_interval
from recfx.data.bpr import BprSampler
from recfx.data.click_data import ClickData, ClickSplit, Histories, clicks
from recfx.data.criteo import CriteoRows, read_criteo
from recfx.data.ctr import CtrData, CtrSplit, encode_ctr
from recfx.data.feedback import Feedback
from recfx.data.fitting import TrainLog, fit
from recfx.data.gowalla import read_gowalla
from recfx.data.interactions import Interactions
from recfx.data.load import load_ctr, load_feedback, load_interactions
from recfx.data.metrics import auc, expected_auc, log_loss, normalized_entropy
from recfx.data.movielens import MovieLens, read_movielens
from recfx.data.ranking import RankingReport, evaluate_embeddings, evaluate_ranking
from recfx.data.synthetic import CtrRecipe, PlantedCtr, synthetic_ctr
from recfx.data.synthetic_feedback import synthetic_feedback
from recfx.data.training import ClickFigures, evaluate_ctr, predict, train_ctr

__all__ = [
    "Batches",
    "BprSampler",
    "ClickData",
    "ClickFigures",
    "ClickSplit",
    "CriteoRows",
    "CtrData",
    "CtrRecipe",
    "CtrSplit",
    "Feedback",
    "Histories",
    "Interactions",
    "Interval",
    "MovieLens",
    "PlantedCtr",
    "RankingReport",
    "TrainLog",
    "auc",
    "auc_difference",
    "auc_interval",
    "clicks",
    "encode_ctr",
    "evaluate_ctr",
    "evaluate_embeddings",
    "evaluate_ranking",
    "expected_auc",
    "fit",
    "load_ctr",
    "load_feedback",
    "load_interactions",
    "log_loss",
    "normalized_entropy",
    "predict",
    "read_criteo",
    "read_gowalla",
    "read_movielens",
    "synthetic_ctr",
    "synthetic_feedback",
    "tensor_batches",
    "train_ctr",
]
