"""The data and the training settings of a benchmark of embeddings."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from recfx.data import Interactions, load_interactions, read_movielens, synthetic_feedback
from recfx.data.gowalla import find_gowalla, read_gowalla
from recfx.data.movielens import has_movielens
from recfx.errors import DataError, InputError

#: Data sets by name, with a description of each.
DATA = {
    "gowalla": "Gowalla check-ins in LightGCN's split",
    "movielens": "MovieLens-1M, ratings of 4 and 5, four folds of five",
    "synthetic": "small generated data, to try the benchmark",
}


@dataclass(frozen=True)
class Recipe:
    """How the models of a data set are trained.

    The encoder is LightGCN; the loss is softmax over a positive and drawn negatives; Adam's rate falls to zero as half a
    cosine. Students start from the weights of the full-precision model of their width, and also learn the first items
    of a full-precision model.

    Attributes:
        dim: Columns of the embeddings.
        layers: Propagations.
        batch: Samples of a step.
        negatives: Negatives of a sample.
        epochs: Epochs in full precision; an epoch has one sample for each interaction.
        lr: Learning rate in full precision.
        l2: See `recfx.learn.TrainSettings`.
        student_epochs: Epochs of a quantised model.
        student_lr: Its learning rate at 1 bit; at b bits it is divided by the 2^b - 1 steps between the ends, which lie closer.
        ranks: How many first items of a full-precision model a student learns; 0: none.
        wide: Columns of a second, wider model in full precision; 0: no such model. Students learn its first items, not
            those of the model that they start from, and some students have its width.
        decay: How fast the probabilities of its ranks fall, see `recfx.learn.RankedDistillation`.
        refined: How many first items of that model the refinement of users' signs reads; it tries to rank the first
            `ranks` of them first. 0: no refinement.
        seed: The seed of all random numbers.
    """

    dim: int = 64
    layers: int = 3
    batch: int = 16_384
    negatives: int = 16
    epochs: int = 30
    lr: float = 0.01
    l2: float = 0.005
    student_epochs: int = 10
    student_lr: float = 0.01
    ranks: int = 50
    wide: int = 0
    decay: float = 0.05
    refined: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("ranks", "wide", "refined", "decay", "l2", "seed"), 0)
        for name, value in asdict(self).items():
            if value < least.get(name, 1 if isinstance(value, int) else 1e-12):
                raise InputError(
                    f"the recipe's {name} cannot be {value}",
                    where="recfx bench",
                    hint="pass another value to the option of that name",
                )


_RECIPES = {
    "gowalla": Recipe(negatives=64, student_epochs=12, student_lr=0.02, ranks=100, wide=256, decay=0.03),
    "movielens": Recipe(layers=2, batch=8_192, epochs=25, student_epochs=15, l2=0.001, ranks=100, wide=256),
    "synthetic": Recipe(dim=16, layers=2, batch=2_048, negatives=4, epochs=20, student_epochs=5, ranks=10),
}


def recipe_of(data: str) -> Recipe:
    """The recipe of a data set; the recipe of Gowalla for a path."""
    return _RECIPES.get(data, _RECIPES["gowalla"])


def load_bench_data(data: str) -> Interactions:
    """Loads the interactions of a path, or of a name of `DATA` in the folder that the environment variable RECFX_DATA
    names.

    Raises:
        DataError: The data are missing or malformed.
    """
    if data == "synthetic":
        return Interactions.from_feedback(synthetic_feedback(600, 400, per_user=40))
    if data not in DATA:
        return load_interactions(data)
    folder = Path(os.environ.get("RECFX_DATA", ".")).expanduser()
    found = find_gowalla(folder) if data == "gowalla" and folder.is_dir() else None
    if found is not None:
        return read_gowalla(found)
    if data == "movielens" and has_movielens(folder):
        return Interactions.from_feedback(read_movielens(folder).feedback())
    raise DataError(
        f"no {data} data: {DATA[data]}",
        where=str(folder),
        hint="set RECFX_DATA to the folder that holds them, give a path instead of a name, or try `--data synthetic`",
    )
