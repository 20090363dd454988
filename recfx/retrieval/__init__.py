"""Top-k over quantised embeddings: exact search through codes, in one stage or two."""

from recfx.retrieval.index import Index

__all__ = ["Index"]
