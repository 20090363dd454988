"""Compression under an accuracy budget: the smallest composition of pruning and quantisation that keeps a metric, with its certificate."""

from __future__ import annotations

from recfx.budget.front import Front, Point
from recfx.budget.metrics import AUC, LogLoss, RowMetric
from recfx.budget.settings import Budget

__all__ = ["AUC", "Budget", "Front", "LogLoss", "Point", "RowMetric"]
