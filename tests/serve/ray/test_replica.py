"""A replica by itself: answers, refusals, its load, new rows, and a model that is loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_kit import compiled, expected, tensors
from ray_kit import LocalHandle, replicas

from recfx.serve import UpdateSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    compiled().save(tmp_path / "tiny.recfx")
    return tmp_path / "tiny.recfx"


@pytest.fixture
def one(folder: Path) -> Iterator[LocalHandle]:
    with replicas([{"tiny": folder}], UpdateSettings(tenants=frozenset({"trainer"}))) as handle:
        yield handle


def test_answers_and_refusals(one: LocalHandle) -> None:
    outputs, refusal = one.infer.remote("tiny", tensors(3)).result()
    assert refusal is None
    torch.testing.assert_close(outputs[0], expected(tensors(3)), rtol=1e-4, atol=1e-5)
    arrays = {name: tensor.numpy() for name, tensor in tensors(2).items()}
    torch.testing.assert_close(
        one.infer.remote("tiny", arrays).result()[0][0], expected(tensors(2)), rtol=1e-4, atol=1e-5
    )
    for model, given, reason in (("nix", tensors(1), "unknown"), ("tiny", {"dense": torch.zeros(1, 5)}, "invalid")):
        found, (why, what, _, _) = one.infer.remote(model, given).result()
        assert found is None
        assert why == reason
        assert what
    (replica,) = one.replicas
    assert replica.record_routing_stats()["in_flight"] == 0
    assert replica.record_autoscaling_stats()["use"] > 0.0
    replica.check_health()


def test_new_rows_whoever_sent_them(one: LocalHandle) -> None:
    """Who may send them is checked in front of the replicas."""
    table = next(record for record in compiled().tables if not record.refused)
    change = {f"ids:{table.names[0]}": torch.arange(2), f"rows:{table.names[0]}": torch.ones(2, table.columns)}
    (version, rows, digest), refusal = one.update.remote("tiny", change).result()
    assert (version, rows, refusal) == (1, 2, None)
    assert one.follow.remote("tiny").result() == ((digest, 1), None)
    document, _ = one.tables.remote("tiny").result()
    assert document["table_version"] == 1
    found, (reason, what, _, _) = one.update.remote(
        "tiny", {**change, f"ids:{table.names[0]}": torch.tensor([0, 10**7])}
    ).result()
    assert (found, reason) == (None, "invalid")
    assert "outside the table" in what


def test_a_replica_without_updates_refuses_them(folder: Path) -> None:
    with replicas([{"tiny": folder}]) as handle:
        found, refusal = handle.update.remote("tiny", {}).result()
        assert found is None
        assert refusal[0] == "unknown"


def test_a_model_is_served_again_after_it_was_loaded(one: LocalHandle, folder: Path) -> None:
    compiled(1).save(folder)
    given = tensors(3)

    def answer() -> torch.Tensor:
        found: torch.Tensor = one.infer.remote("tiny", given).result()[0][0]
        return found

    assert one.load_again.remote("tiny").result() == (None, None)
    torch.testing.assert_close(answer(), expected(given), rtol=1e-4, atol=1e-5)
    for _ in range(2):  # the second does nothing
        assert one.serve_again.remote("tiny").result() == (None, None)
        torch.testing.assert_close(answer(), expected(given, 1), rtol=1e-4, atol=1e-5)
    (folder / "manifest.json").write_text("{}")
    found, refusal = one.load_again.remote("tiny").result()
    assert found is None
    assert refusal[0] == "failed"
    torch.testing.assert_close(answer(), expected(given, 1), rtol=1e-4, atol=1e-5)
