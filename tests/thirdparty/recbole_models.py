"""recbole: general, sequential and context-aware models over a small data set that this file writes. recbole's models
read their table sizes, adjacency and item features from a data set object, so recbole's own loader reads the data set.
Their entry points (`predict`, `full_sort_predict`) expect recbole's `Interaction`; `Scorer` passes a plain dictionary
of tensors, as a serving system does.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, padded_history
from shims import older_numerics, recbole_helpers, stand_ins
from torch import Tensor, nn

USERS, ITEMS, LENGTH = 30, 40, 8
COLUMNS = {
    "inter": ["user_id", "item_id", "rating", "timestamp"],
    "user": ["user_id", "age", "gender"],
    "item": ["item_id", "class", "genres", "price"],
}
KNOWLEDGE = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
FieldMaker = Callable[[Any, int, torch.Generator], dict[str, Tensor]]


class Scorer(nn.Module):
    """One of recbole's entry points as a module over a dictionary of tensors.

    Args:
        model: The recbole model.
        entry: `"predict"` (score of each row's item) or `"full_sort_predict"` (scores of all items).
    """

    def __init__(self, model: nn.Module, entry: str) -> None:
        super().__init__()
        self.model = model
        self.entry = entry
        self.interaction = importlib.import_module("recbole.data.interaction").Interaction

    def forward(self, fields: dict[str, Tensor]) -> Tensor:
        """Scores `[batch]`, or `[batch * items]` from `full_sort_predict`."""
        scores: Tensor = getattr(self.model, self.entry)(self.interaction(fields))
        return scores


def write_dataset(folder: Path) -> None:
    """Write `tiny` in recbole's atomic format: 30 users, 40 items, 12 interactions each, features of both, and a graph of what is known
    about the items.
    """
    rng = random.Random(0)
    place = folder / "tiny"
    place.mkdir()
    rows = [
        f"u{user}\ti{item}\t{rng.randint(1, 5)}\t{100 * user + time}"
        for user in range(USERS)
        for time, item in enumerate(rng.sample(range(ITEMS), 12))
    ]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (place / "tiny.inter").write_text("\n".join([header, *rows]) + "\n")
    users = [f"u{user}\ta{user % 7}\tg{user % 2}" for user in range(USERS)]
    (place / "tiny.user").write_text("\n".join(["user_id:token\tage:token\tgender:token", *users]) + "\n")
    items = [
        f"i{item}\tc{item % 5}\t{' '.join(f'k{rng.randrange(6)}' for _ in range(1 + item % 3))}\t{rng.random():.3f}"
        for item in range(ITEMS)
    ]
    header = "item_id:token\tclass:token\tgenres:token_seq\tprice:float"
    (place / "tiny.item").write_text("\n".join([header, *items]) + "\n")
    known = [
        f"e{item}\tr{relation}\tk{rng.randrange(10)}" for item in range(ITEMS) for relation in rng.sample(range(4), 2)
    ]
    header = "head_id:token\trelation_id:token\ttail_id:token"
    (place / "tiny.kg").write_text("\n".join([header, *known]) + "\n")
    links = [f"i{item}\te{item}" for item in range(ITEMS)]
    (place / "tiny.link").write_text("\n".join(["item_id:token\tentity_id:token", *links]) + "\n")


@contextmanager
def recbole_room() -> Iterator[Path]:
    """The environment of recbole: a folder with the data set, stand-ins, no command line, quiet logs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_ins(recbole_helpers()),
        older_numerics(),
        mock.patch.object(sys, "argv", ["recbole"]),
        mock.patch.dict(os.environ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.getLogger("recbole").setLevel(logging.ERROR)
        write_dataset(Path(folder))
        yield Path(folder)


def load(name: str, settings: dict[str, Any]) -> tuple[nn.Module, Any]:
    """A recbole model by name, and the training data set it was made for."""
    with recbole_room() as folder:
        config_type = importlib.import_module("recbole.config").Config
        data = importlib.import_module("recbole.data")
        get_model = importlib.import_module("recbole.utils").get_model
        common = {
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "use_gpu": False,
            "state": "ERROR",
            "load_col": COLUMNS,
            "MAX_ITEM_LIST_LENGTH": LENGTH,
            "embedding_size": 16,
            "numerical_features": ["price"],
            "selected_features": ["class"],
        }
        config = config_type(model=name, dataset="tiny", config_dict=common | settings)
        dataset = data.create_dataset(config)
        train, _, _ = data.data_preparation(config, dataset)
        return get_model(name)(config, train._dataset), train._dataset


def _tabular(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    """User, item, their categories, a padded bag of genres and a price."""
    tokens = ("user_id", "item_id", "age", "gender", "class")
    fields = {name: ids(batch, dataset.num(name), rng, low=1) for name in tokens}
    genres, _ = padded_history(batch, 3, dataset.num("genres"), rng)
    price = torch.rand(batch, generator=rng)  # recbole passes a number as (value, 1) and embeds the 1
    return fields | {"genres": genres, "price": torch.stack([price, torch.ones(batch)], dim=1)}


def user_item_pairs(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    return {name: ids(batch, dataset.num(name), rng, low=1) for name in ("user_id", "item_id")}


def _users(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    return {"user_id": ids(batch, dataset.num("user_id"), rng, low=1)}


def _sequences(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    items, lengths = padded_history(batch, LENGTH, dataset.num("item_id"), rng)
    return user_item_pairs(dataset, batch, rng) | {"item_id_list": items, "item_length": lengths}


def _reversed_sequences(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    fields = _sequences(dataset, batch, rng)
    return fields | {"Inverse_item_id_list": fields["item_id_list"].flip(1)}


def _sequences_and_negatives(dataset: Any, batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    fields = _sequences(dataset, batch, rng)
    items = fields["item_id_list"]
    negatives = torch.randint(1, dataset.num("item_id"), items.shape, generator=rng)
    return fields | {"neg_item_id_list": negatives * (items != 0)}


def _build(name: str, entry: str, fields: FieldMaker, settings: dict[str, Any]) -> BuiltModel:
    model, dataset = load(name, settings)

    def inputs(batch: int, rng: torch.Generator) -> Inputs:
        return (fields(dataset, batch, rng),), {}

    return BuiltModel(Scorer(model, entry), inputs)


def recbole_case(
    name: str, fields: FieldMaker, entry: str = "predict", label: str | None = None, **settings: Any
) -> ModelCase:
    """A model by its name in the library, with the inputs that its entry point reads."""
    build = partial(_build, name, entry, fields, settings)
    return ModelCase(label or name, "recbole", "recbole", build)


def _context() -> list[ModelCase]:
    names = [
        "LR",
        "FM",
        "NFM",
        "DeepFM",
        "xDeepFM",
        "AFM",
        "FFM",
        "FwFM",
        "FNN",
        "PNN",
        "DSSM",
        "WideDeep",
        "DCN",
        "DCNV2",
        "AutoInt",
        "FiGNN",
        "EulerNet",
        "KD_DAGFM",
    ]
    return [recbole_case(name, _tabular, threshold={"rating": 3}) for name in names]


def _general() -> list[ModelCase]:
    negative = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False}}
    names = [
        "BPR",
        "NeuMF",
        "DMF",
        "FISM",
        "NAIS",
        "SpectralCF",
        "GCMC",
        "NGCF",
        "LightGCN",
        "DGCF",
        "LINE",
        "NNCF",
        "ENMF",
        "SGL",
        "SimpleX",
        "NCL",
    ]
    whole = ["MultiVAE", "MultiDAE", "MacridVAE", "CDAE", "RecVAE", "DiffRec"]
    cases = [recbole_case(name, user_item_pairs, **negative) for name in names]
    cases += [recbole_case(name, user_item_pairs) for name in whole]
    cases.append(recbole_case("ConvNCF", user_item_pairs, embedding_size=64, **negative))
    cases.append(recbole_case("BPR", _users, "full_sort_predict", "BPR-all-items", **negative))
    cases.append(recbole_case("LightGCN", _users, "full_sort_predict", "LightGCN-all-items", **negative))
    return cases


def _sequential() -> list[ModelCase]:
    names = [
        "GRU4Rec",
        "NARM",
        "SASRec",
        "STAMP",
        "Caser",
        "NextItNet",
        "TransRec",
        "SRGNN",
        "GCSAN",
        "BERT4Rec",
        "HGN",
        "HRM",
        "NPE",
        "FPMC",
        "FOSSIL",
        "LightSANs",
        "SINE",
        "CORE",
        "FEARec",
        "RepeatNet",
        "GRU4RecF",
        "SASRecF",
        "FDSA",
        "DIN",
        "S3Rec",
    ]
    plain = {"train_neg_sample_args": None}
    cases = [recbole_case(name, _sequences, **plain) for name in names]
    cases += [
        recbole_case("SHAN", _reversed_sequences, **plain),
        recbole_case("DIEN", _sequences_and_negatives, **plain),
    ]
    cases += [
        recbole_case(name, _sequences, "full_sort_predict", f"{name}-all-items", **plain)
        for name in ("GRU4Rec", "SASRec")
    ]
    cases += [  # the library disables their `predict`
        recbole_case(name, _sequences, "full_sort_predict", f"{name}-all-items", reranker_CAN_NUM=10, **plain)
        for name in ("SASRecCPR", "GRU4RecCPR")
    ]
    return cases


CASES = [*_context(), *_general(), *_sequential()]
