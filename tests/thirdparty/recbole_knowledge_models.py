"""recbole: models over a graph of what is known about the items, and general models that are trained in several stages."""

from __future__ import annotations

from corpus import ModelCase
from recbole_models import COLUMNS, KNOWLEDGE, recbole_case, user_item_pairs

_NEGATIVE = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False}}
_GRAPH = {"load_col": COLUMNS | KNOWLEDGE, "kg_embedding_size": 16, **_NEGATIVE}
_NAMES = ("CFKG", "CKE", "KGCN", "KGNNLS", "KTUP", "MKR", "RippleNet")


CASES: list[ModelCase] = [
    *(recbole_case(name, user_item_pairs, **_GRAPH) for name in _NAMES),
    recbole_case("KTUP", user_item_pairs, label="KTUP-mean", use_st_gumbel=False, **_GRAPH),
    *(recbole_case(name, user_item_pairs) for name in ("RaCT", "LDiffRec")),
]
