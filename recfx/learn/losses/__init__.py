"""Ranking losses with the diagonals of their Hessians: one loss per file."""

from recfx.learn.losses.base import Diagonal, LossOfRows, RankingLoss, loss_of_rows
from recfx.learn.losses.bce import BCE
from recfx.learn.losses.bpr import BPR
from recfx.learn.losses.softmax import SampledSoftmax

__all__ = ["BCE", "BPR", "Diagonal", "LossOfRows", "RankingLoss", "SampledSoftmax", "loss_of_rows"]
