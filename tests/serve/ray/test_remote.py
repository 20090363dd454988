"""Models that run in replicas, behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_kit import compiled, expected, tensors
from ray_kit import LocalHandle, replicas

from recfx.serve import EngineSettings, Models, Reason, Rejected

pytest.importorskip("ray", reason='pip install "recfx[ray]"')

from ray.exceptions import RayActorError

from recfx.serve.ray import interface, remote_models

pytestmark = pytest.mark.slow  # `make slow` installs Ray


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    compiled().save(tmp_path / "tiny.recfx")
    return tmp_path / "tiny.recfx"


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[LocalHandle, Models]]:
    with replicas([{"tiny": folder}] * 2) as handle:
        models = remote_models(handle, {"tiny": folder}, EngineSettings(workers=2))
        yield handle, models
        models.close()


def call(models: Models, rows: int) -> torch.Tensor:
    held = models.get("tiny").variant.interface
    return held.call(held.leaves(tensors(rows)))[0]


def test_calls_are_those_of_the_model(served: tuple[LocalHandle, Models]) -> None:
    for rows in (1, 5):
        torch.testing.assert_close(call(served[1], rows), expected(tensors(rows)), rtol=1e-4, atol=1e-5)
    variant = served[1].get("tiny").variant
    assert (variant.name, variant.interface.rows(variant.interface.leaves(tensors(4)))) == ("tiny", 4)
    assert variant.times.seconds(1) > 0.0


def test_a_wrong_request_is_refused_here_or_there(served: tuple[LocalHandle, Models]) -> None:
    held = served[1].get("tiny").variant.interface
    with pytest.raises(Exception, match="missing sparse"):
        held.leaves({"dense": torch.zeros(1, 5)})
    outside = {**tensors(1), "sparse": torch.full((1, 3), 99)}
    with pytest.raises(Rejected, match="99") as caught:
        held.call([outside])
    assert caught.value.reason is Reason.INVALID


def test_a_request_whose_replica_dies_goes_to_another(served: tuple[LocalHandle, Models]) -> None:
    handle, models = served
    handle.errors += [RayActorError(), RayActorError()]
    torch.testing.assert_close(call(models, 3), expected(tensors(3)), rtol=1e-4, atol=1e-5)
    assert not handle.errors


def test_no_replica_answers(served: tuple[LocalHandle, Models], monkeypatch: pytest.MonkeyPatch) -> None:
    handle, models = served
    monkeypatch.setattr(interface, "_RETRY_SECONDS", 0.05)
    handle.errors += [RayActorError()] * 50
    with pytest.raises(Rejected, match="no replica answers") as caught:
        call(models, 3)
    assert caught.value.reason is Reason.FAILED
