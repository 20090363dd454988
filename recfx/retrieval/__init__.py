"""Top-k over quantised embeddings: exact search through codes, in one stage or two."""

from recfx.retrieval.index import Index
from recfx.retrieval.two_stage import TwoStageIndex

__all__ = ["Index", "TwoStageIndex"]
