"""Served models by name: added, found, loaded again."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import torch
from engine_kit import Outcomes, compiled, expected, tensors
from torch import nn

import recfx
from recfx.errors import ArtifactError, InputError
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.models import Models, Source
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.times import ServiceTimes


@pytest.fixture
def models():
    """Models that end with the test."""
    made = Models(EngineSettings(workers=2))
    yield made
    made.close(5.0)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "tiny.recfx"
    compiled().save(folder)
    return folder


def answer(engine, request):
    outcomes = Outcomes()
    engine.submit(request, outcomes.of(0))
    return outcomes.wait(1)[0][0]


def test_a_folder_is_served_under_its_name(models, saved):
    engine = models.add(saved)
    assert engine.name == "tiny"
    assert models.get("tiny") is models.get("tiny", "1") is engine
    assert len(engine.variant.digest) == 12
    torch.testing.assert_close(answer(engine, tensors(3)), expected(tensors(3)))
    assert len(models) == 1
    assert [each.name for each in models] == ["tiny"]


def test_a_compiled_model_is_served_under_a_given_name(models):
    torch.testing.assert_close(answer(models.add(compiled(), "a"), tensors(2)), expected(tensors(2)))
    with pytest.raises(InputError, match="was not loaded from a folder"):
        models.reload("a")
    for name in (None, "", "a/b", " a"):
        with pytest.raises(InputError, match="cannot be the name"):
            models.add(compiled(), name)
    with pytest.raises(InputError, match="served already"):
        models.add(compiled(), "a")


def test_unknown_names_and_versions(models):
    for name, version in (("nix", None), ("a", "2"), ("a", "x")):
        models._engines or models.add(compiled(), "a")
        with pytest.raises(Rejected) as caught:
            models.get(name, version)
        assert caught.value.reason is Reason.UNKNOWN


def test_a_new_folder_takes_over_at_a_reload(models, saved):
    engine = models.add(saved)
    before = engine.variant.digest
    compiled(1).save(saved)
    torch.testing.assert_close(answer(engine, tensors(3)), expected(tensors(3)))
    models.reload("tiny")
    torch.testing.assert_close(answer(engine, tensors(3)), expected(tensors(3), seed=1))
    assert engine.version == 2
    assert engine.variant.digest != before


class Other(nn.Module):
    def forward(self, x):
        return x * 2


def test_what_cannot_be_loaded_leaves_the_present_model(models, saved):
    engine = models.add(saved)
    shutil.copytree(saved, saved.with_name("copy"))
    (saved / "program.json").write_bytes(b"{")
    with pytest.raises(ArtifactError):
        models.reload("tiny")
    shutil.rmtree(saved)
    with pytest.raises(ArtifactError, match="no saved model"):
        models.reload("tiny")
    recfx.optimize(Other().eval(), target="eager", example_inputs=(torch.rand(4, 3),), measure=False).save(saved)
    with pytest.raises(InputError, match="another interface"):
        models.reload("tiny")
    torch.testing.assert_close(answer(engine, tensors(3)), expected(tensors(3)))
    assert engine.version == 1
    shutil.rmtree(saved)
    saved.with_name("copy").rename(saved)
    models.reload("tiny")
    assert engine.version == 2


def test_a_missing_folder_is_not_served(models, tmp_path):
    with pytest.raises(ArtifactError, match="no saved model"):
        models.add(tmp_path / "nix.recfx")
    assert not len(models)


def test_variants_of_one_model_stand_in_the_order_of_their_speed(models, saved, tmp_path, monkeypatch):
    quick = tmp_path / "quick.recfx"
    compiled(1).save(quick)
    times = {"tiny": 1.0, "quick": 1e-6}

    def with_times(model, name, threads, **options):
        return Variant(name, ModelInterface(model), ServiceTimes({1: times[name]}), **options)

    monkeypatch.setattr("recfx.serve.models.variant", with_times)
    engine = models.add([Source(saved, 0.8), Source(quick, 0.7)], "both")
    assert [each.name for each in engine.variants] == ["tiny", "quick"]
    assert [each.quality for each in engine.variants] == [0.8, 0.7]
    with pytest.raises(InputError, match="'tiny' does not stand below 'quick'"):
        models.add([Source(quick, 0.7), Source(saved, 0.6)], "wrong")


def test_no_request_is_lost_in_reloads_under_load(models, saved):
    engine, outcomes = models.add(saved), Outcomes()
    versions = [expected(tensors(2)), expected(tensors(2), seed=1)]
    ended = threading.Event()

    def reload():
        seed = 0
        while not ended.is_set():
            seed = 1 - seed
            compiled(seed).save(saved)
            models.reload("tiny")

    for seed in (0, 1):
        compiled(seed)
    thread = threading.Thread(target=reload)
    thread.start()
    calls = 0
    while calls < 500 or engine.version < 4:
        while engine.waiting > 100:
            time.sleep(0.001)
        engine.submit(tensors(2), outcomes.of(calls))
        calls += 1
        if calls % 10 == 0:
            time.sleep(0.005)
    found = outcomes.wait(calls)
    ended.set()
    thread.join()
    seen = set()
    for outcome in found.values():
        matches = [k for k, version in enumerate(versions) if torch.allclose(outcome[0], version, atol=1e-5)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {0, 1}
