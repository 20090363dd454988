"""Reference models, plain torch, as their papers describe them.

model = zoo.build("dlrm", dim=32).eval()
scores = model(*model.example_inputs(64, zipf=1.05))
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

from recfx.zoo.autoint import AutoInt
from recfx.zoo.base import CRITEO_KAGGLE_ROWS, CRITEO_ROWS, CtrModel, ZooModel
from recfx.zoo.bst import BST
from recfx.zoo.dcn_v2 import DCNv2
from recfx.zoo.deepfm import DeepFM
from recfx.zoo.dien import DIEN
from recfx.zoo.din import DIN
from recfx.zoo.dlrm import DLRM
from recfx.zoo.encoders import Encoder
from recfx.zoo.errors import ZooError
from recfx.zoo.graph import NormalizedAdjacency
from recfx.zoo.history import HistoryModel
from recfx.zoo.lightgcn import LightGCN
from recfx.zoo.mf import MatrixFactorization
from recfx.zoo.mmoe import MMoE
from recfx.zoo.neumf import NeuMF
from recfx.zoo.ngcf import NGCF
from recfx.zoo.pairs import PairModel
from recfx.zoo.sampling import sample_histories, sample_ids
from recfx.zoo.sasrec import SASRec
from recfx.zoo.two_tower import TwoTower
from recfx.zoo.wide_deep import WideDeep
from recfx.zoo.xdeepfm import XDeepFM

#: Name -> model.
MODELS: dict[str, type[ZooModel]] = {
    "dlrm": DLRM,
    "wide-deep": WideDeep,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "dcn-v2": DCNv2,
    "autoint": AutoInt,
    "din": DIN,
    "dien": DIEN,
    "bst": BST,
    "mmoe": MMoE,
    "two-tower": TwoTower,
    "sasrec": SASRec,
    "lightgcn": LightGCN,
    "ngcf": NGCF,
    "mf": MatrixFactorization,
    "neumf": NeuMF,
}

__all__ = [
    "BST",
    "CRITEO_KAGGLE_ROWS",
    "CRITEO_ROWS",
    "DIEN",
    "DIN",
    "DLRM",
    "MODELS",
    "NGCF",
    "AutoInt",
    "CtrModel",
    "DCNv2",
    "DeepFM",
    "Encoder",
    "HistoryModel",
    "LightGCN",
    "MMoE",
    "MatrixFactorization",
    "NeuMF",
    "NormalizedAdjacency",
    "PairModel",
    "SASRec",
    "TwoTower",
    "WideDeep",
    "XDeepFM",
    "ZooError",
    "ZooModel",
    "build",
    "model_class",
    "sample_histories",
    "sample_ids",
]


def model_class(name: str) -> type[ZooModel]:
    """The class of the model of that name.

    Raises:
        ZooError: The model is unknown; the error names similar ones.
    """
    if name not in MODELS:
        raise ZooError(f"the zoo has no model {name!r}", where="zoo", hint=_suggest(name.lower(), list(MODELS)))
    return MODELS[name]


def build(name: str, **overrides: Any) -> ZooModel:
    """Makes the model of that name, in training mode like every new module.

    Args:
        name: A key of `MODELS`.
        overrides: Arguments of the model's constructor.

    Raises:
        ZooError: The model or an argument is unknown, or arguments do not fit together.
    """
    model = model_class(name)
    known = [parameter for parameter in inspect.signature(model).parameters if parameter != "self"]
    for argument in overrides:
        if argument not in known:
            raise ZooError(f"{name} has no argument {argument!r}", where="zoo.build", hint=_suggest(argument, known))
    return model(**overrides)


def _suggest(name: str, known: list[str]) -> str:
    """A hint with similar names, or with all known names if no name is similar."""
    close = get_close_matches(name, known, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(known)}"
