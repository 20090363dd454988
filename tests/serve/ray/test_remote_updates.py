"""New rows and new models in all replicas, or an error that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from engine_kit import compiled, expected, tensors
from ray_kit import LocalHandle, replicas

import recfx
from recfx.errors import InputError
from recfx.serve import EngineSettings, Models, Reason, Rejected, UpdateSettings

pytest.importorskip("ray", reason='pip install "recfx[ray]"')

from ray.exceptions import RayActorError

from recfx.serve.ray import remote_models
from recfx.serve.ray.remote_updates import Applied, is_behind

pytestmark = pytest.mark.slow  # `make slow` installs Ray

TABLE = next(record for record in compiled().tables if not record.refused)
CHANGE = {f"ids:{TABLE.names[0]}": torch.arange(4), f"rows:{TABLE.names[0]}": torch.ones(4, TABLE.columns)}
UPDATES = UpdateSettings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    compiled().save(tmp_path / "tiny.recfx")
    return tmp_path / "tiny.recfx"


def front(handle: LocalHandle, folder: Path) -> Models:
    return remote_models(handle, {"tiny": folder}, EngineSettings(workers=2), updates=UPDATES)


def answers(handle: LocalHandle) -> list[torch.Tensor]:
    """The answers of all replicas."""
    return [handle.loop.run(each.infer("tiny", tensors(6)))[0][0] for each in handle.replicas]


def same(found: list[torch.Tensor], want: torch.Tensor) -> None:
    for each in found:
        torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-5)


def test_every_replica_has_the_rows_when_the_update_is_answered(folder: Path) -> None:
    with replicas([{"tiny": folder}] * 3, UpdateSettings(follow=1000.0)) as handle:  # replicas do not look themselves
        models = front(handle, folder)
        for version in (1, 2):
            found = models.updates.apply(models.get("tiny"), CHANGE, "")
            assert (found["table_version"], found["rows"]) == (version, 4)
        local = recfx.load(folder)
        local.update_tables({TABLE.names[0]: (torch.arange(4), torch.ones(4, TABLE.columns))})
        same(answers(handle), local(*tensors(6).values()))
        assert models.get("tiny").variant.interface.updates.document()["table_version"] == 2
        handle.lost.append(RayActorError())  # one that replaces it reads the journal
        assert models.updates.apply(models.get("tiny"), CHANGE, "")["table_version"] == 3
        models.close()


def test_a_refusal_keeps_its_reason(folder: Path) -> None:
    with replicas([{"tiny": folder}], UPDATES) as handle:
        models = front(handle, folder)
        with pytest.raises(Rejected, match="outside the table") as caught:
            models.updates.apply(models.get("tiny"), {**CHANGE, f"ids:{TABLE.names[0]}": torch.arange(4) + 10**7}, "")
        assert caught.value.reason is Reason.INVALID
        models.close()


def test_folders_that_machines_do_not_share_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other" / "tiny.recfx")
    with replicas([{"tiny": folder}, {"tiny": tmp_path / "other" / "tiny.recfx"}], UPDATES) as handle:
        models = front(handle, folder)
        with pytest.raises(Rejected, match="1 replicas do not have the change: they have applied 0 of 1") as caught:
            models.updates.apply(models.get("tiny"), CHANGE, "")
        assert "all machines share" in (caught.value.hint or "")
        models.close()


def test_lost_replicas_are_an_error_that_says_what_to_do(folder: Path) -> None:
    with replicas([{"tiny": folder}], UPDATES) as handle:
        models = front(handle, folder)
        handle.errors.append(RayActorError())
        with pytest.raises(Rejected, match="may be written or not"):
            models.updates.apply(models.get("tiny"), CHANGE, "")
        handle.lost.append(ValueError("x"))
        with pytest.raises(Rejected, match="a replica failed: ValueError"):
            models.updates.apply(models.get("tiny"), CHANGE, "")
        models.close()


@pytest.mark.parametrize(
    ("found", "behind"),
    [(("a", 3), False), (("a", 4), False), (("a", 2), True), (("b", 0), False)],
)
def test_replicas_of_another_saved_model_count_for_themselves(found: tuple[str, int], behind: bool) -> None:
    assert is_behind(Applied(*found), Applied("a", 3)) is behind


def test_a_model_is_loaded_again_in_all_replicas(folder: Path) -> None:
    with replicas([{"tiny": folder}] * 2) as handle:
        models = front(handle, folder)
        compiled(1).save(folder)
        models.reload("tiny")
        same(answers(handle), expected(tensors(6), 1))
        assert models.get("tiny").version == 2
        models.close()


def test_one_replica_that_cannot_load_the_model_keeps_all_as_they_were(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny.recfx"
    shutil.copytree(folder, other)
    with replicas([{"tiny": folder}, {"tiny": other}]) as handle:
        models = front(handle, folder)
        compiled(1).save(folder)
        (other / "manifest.json").write_text("{}")
        with pytest.raises(Rejected):
            models.reload("tiny")
        same(answers(handle), expected(tensors(6)))
        assert models.get("tiny").version == 1
        models.close()


def test_a_model_with_another_interface_is_refused_before_a_replica_loads_it(folder: Path) -> None:
    with replicas([{"tiny": folder}]) as handle:
        models = front(handle, folder)
        other = torch.nn.Linear(3, 1).eval()
        recfx.optimize(other, example_inputs=(torch.zeros(2, 3),), target="native", measure=False).save(folder)
        with pytest.raises(InputError, match="another interface"):
            models.reload("tiny")
        same(answers(handle), expected(tensors(6)))
        models.close()
