"""Only the experiment that wrote a checkpoint continues it: all settings that change the result are compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learn_kit import QUICK, UserSampler, judge, planted

from recfx.data import BprSampler, Interactions
from recfx.errors import ArtifactError
from recfx.learn import (
    BCE,
    BPR,
    ESTIMATORS,
    Curvature,
    DeltaSettings,
    EpochSampler,
    QuantizedModel,
    RankedDistillation,
    SampledSoftmax,
    TableEncoder,
    TopRDistillation,
    Trainer,
    make_quantizer,
)
from recfx.learn.bounds import CentredRowBounds, LearnedBounds, MovingBounds, PerRowBounds
from recfx.learn.checkpoint import load_checkpoint, save_checkpoint
from recfx.learn.fingerprint import fingerprint

ONE_EPOCH = replace(QUICK, epochs=1)
TOP = torch.arange(3000).reshape(300, 10) % 200


@dataclass
class Setup:
    """The parts of a trainer; each function makes a new part."""

    data: Callable[[], Interactions] = planted
    batch: int = 512
    negatives: int = 2
    loss: Callable[[], Any] = lambda: SampledSoftmax(0.5)
    curvature: Callable[[], Curvature] = lambda: Curvature(DeltaSettings(every=2))
    distillation: Callable[[], Any] = lambda: TopRDistillation(TOP, draws=3)
    users: Callable[[], Any] = lambda: make_quantizer(1, "gste", "per-row", dim=16)
    items: Callable[[], Any] = lambda: make_quantizer(1, "gste", "per-row", dim=16)
    evaluated: bool = True
    settings: Any = ONE_EPOCH

    def trainer(self, folder: Path) -> Trainer:
        data = self.data()
        return Trainer(
            QuantizedModel(TableEncoder(data.n_users, data.n_items, 16), self.users(), self.items()),
            EpochSampler(BprSampler(data, self.negatives), self.batch),
            self.settings,
            loss=self.loss(),
            evaluate=judge(data) if self.evaluated else None,
            curvature=self.curvature(),
            distillation=self.distillation(),
            folder=folder,
        )


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a loss": ({"loss": BPR}, "loss was SampledSoftmax, now it is BPR"),
    "another loss": ({"loss": BCE}, "loss was"),
    "a temperature": ({"loss": lambda: SampledSoftmax(0.2)}, "loss.temperature was 0.5, now it is 0.2"),
    "negatives": ({"negatives": 3}, "negatives was 2, now it is 3"),
    "a batch size": ({"batch": 256}, "batch size was 512, now it is 256"),
    "data of the same size": ({"data": lambda: _shifted()}, "samples was"),
    "updates of delta": (
        {"curvature": lambda: Curvature(DeltaSettings(every=3))},
        "curvature.every was 2, now it is 3",
    ),
    "no distillation": ({"distillation": lambda: None}, "distillation was"),
    "another distillation": ({"distillation": lambda: RankedDistillation(TOP)}, "distillation was"),
    "a teacher": ({"distillation": lambda: TopRDistillation(TOP.flip(1), draws=3)}, "distillation.top was"),
    "a decay": ({"distillation": lambda: TopRDistillation(TOP, draws=3, decay=0.2)}, "distillation.decay was"),
    "bits": ({"items": lambda: make_quantizer(4, "gste", "per-row", dim=16)}, "item_quantizer.bits was 1, now it is 4"),
    "an estimator": ({"users": lambda: make_quantizer(1, "ste", "per-row", dim=16)}, "user_quantizer.estimator was"),
    "bounds": ({"users": lambda: make_quantizer(1, "gste", "ema-minmax", dim=16)}, "user_quantizer.bounds was"),
    "no quantiser": ({"users": lambda: None}, "user_quantizer was"),
    "early stopping": ({"evaluated": False}, "evaluated was True"),
    "a rate": ({"settings": replace(ONE_EPOCH, lr=0.5)}, "settings.lr was"),
}


def _shifted() -> Interactions:
    """The planted interactions with every item renamed to the next one."""
    data = planted()
    rows = [
        ((row + 1) % data.n_items).sort().values for row in data.train_indices.split(data.train_indptr.diff().tolist())
    ]
    return replace(data, train_indices=torch.cat(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    Setup().trainer(place).run()
    return place


@pytest.mark.parametrize("name", OTHERS)
def test_another_experiment_is_refused_with_the_difference(name: str, folder: Path) -> None:
    changes, message = OTHERS[name]
    trainer = replace(Setup(), **changes).trainer(folder)
    with pytest.raises(ArtifactError) as refused:
        trainer.run()
    assert "another experiment" in str(refused.value)
    assert message in str(refused.value).replace("'", "")


def test_every_difference_is_listed(folder: Path) -> None:
    trainer = replace(Setup(), batch=256, loss=BPR, curvature=lambda: Curvature()).trainer(folder)
    with pytest.raises(ArtifactError, match=r"batch size .*curvature.every .*loss "):
        trainer.run()


def test_the_same_experiment_goes_on(folder: Path) -> None:
    longer = replace(Setup(), settings=replace(QUICK, epochs=2)).trainer(folder)
    assert len(longer.run().losses) == 2


def test_a_checkpoint_without_a_fingerprint_is_refused(tmp_path: Path) -> None:
    Setup().trainer(tmp_path).run()
    parts, values = load_checkpoint(tmp_path)
    del values["experiment"]
    save_checkpoint(tmp_path, 1, parts, values)
    with pytest.raises(ArtifactError, match="does not name the settings of its training"):
        Setup().trainer(tmp_path).run()


CLASSES = [
    BPR,
    BCE,
    SampledSoftmax,
    TopRDistillation,
    RankedDistillation,
    DeltaSettings,
    LearnedBounds,
    MovingBounds,
    PerRowBounds,
    *ESTIMATORS.values(),
]
MADE: dict[type, dict[str, Any]] = {
    TopRDistillation: {"top": TOP},
    RankedDistillation: {"top": TOP},
    LearnedBounds: {"bits": 4},
    MovingBounds: {"bits": 4},
    PerRowBounds: {"bits": 4},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_argument_of_a_constructor_is_in_the_fingerprint(kind: type) -> None:
    """Except for arguments that become state in the checkpoint: HessianScaled's delta."""
    found = fingerprint(it=kind(**MADE.get(kind, {})))
    arguments = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind.__init__).parameters)[1:]
    state = {"delta"} if kind is ESTIMATORS["gste"] else set()
    assert {f"it.{a}" for a in arguments if a not in state} <= found.keys()


def test_centred_rows_are_described_by_their_parts() -> None:
    one, other = (fingerprint(it=CentredRowBounds(1, 8, momentum=m)) for m in (0.9, 0.95))
    assert one != other
    assert fingerprint(it=CentredRowBounds(1, 8)) != fingerprint(it=CentredRowBounds(2, 8))


def test_what_training_changes_is_no_part_of_it() -> None:
    model = QuantizedModel(TableEncoder(30, 20, 8), make_quantizer(1, "gste", "ema-minmax", dim=8), None)
    before = fingerprint(model=model)
    model.train()
    model.quantize(model.rows(torch.arange(3), torch.arange(3)))
    for parameter in model.parameters():
        parameter.detach().add_(1)
    assert fingerprint(model=model) == before


def test_tensors_are_described_by_content() -> None:
    sparse = torch.eye(3).to_sparse_csr()
    assert fingerprint(a=sparse) == fingerprint(a=torch.eye(3).to_sparse_csr())
    assert fingerprint(a=sparse) != fingerprint(a=(2 * torch.eye(3)).to_sparse_csr())
    assert fingerprint(a=torch.zeros(0)) != fingerprint(a=torch.zeros(0, 2))
    assert fingerprint(a=torch.tensor(1.0)) != fingerprint(a=torch.tensor(1))


def test_a_sampler_of_ones_own_is_compared_by_what_it_draws(tmp_path: Path) -> None:
    data = planted()
    settings = replace(QUICK, epochs=1)
    model = lambda: QuantizedModel(TableEncoder(data.n_users, data.n_items, 8))  # noqa: E731
    Trainer(model(), UserSampler(data, negatives=2), settings, folder=tmp_path).run()
    with pytest.raises(ArtifactError, match="negatives was 2, now it is 1"):
        Trainer(model(), UserSampler(data, negatives=1), settings, folder=tmp_path).run()
