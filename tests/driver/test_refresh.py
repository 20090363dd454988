"""refresh: a compiled model adopts new weights and new constants."""

from __future__ import annotations

import copy
import gc
import threading
from pathlib import Path

import pytest
import torch
from item_models import IDS, ITEMS, USER, Rank, Scores, catalogue, close, optimize, rank_inputs
from torch import nn

import recfx
from recfx.zoo import MODELS


def test_lightgcn_follows_its_weights() -> None:
    torch.manual_seed(0)
    model = MODELS["lightgcn"].small().eval()  # type: ignore[attr-defined]
    inputs = model.example_inputs(6)
    fast = optimize(model, example_inputs=inputs)
    with torch.no_grad():
        before = fast(*inputs).clone()
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
        assert torch.equal(fast(*inputs), before)
        fast.refresh()
        close(fast(*inputs), model(*inputs))
        assert not torch.allclose(fast(*inputs), before)


def test_refresh_takes_new_weights_and_new_constants(tmp_path: Path) -> None:
    model = Rank()
    inputs = rank_inputs(6)
    columns = catalogue(torch.arange(ITEMS))
    fast = optimize(model, example_inputs=inputs, constant_inputs=columns, catalogue=True)
    old = fast(*inputs)
    other = Rank()
    with torch.no_grad():
        for parameter in [*model.parameters(), *other.parameters()]:
            parameter.mul_(1.5)
    fast.refresh()
    close(fast(*inputs), model(*inputs))
    prices = columns["price"] + 1
    fast.refresh(constant_inputs={"price": prices})
    close(fast(*inputs[:2]), model(inputs[0], inputs[1], prices[inputs[1]], inputs[3]))
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    with pytest.raises(recfx.RecfxError, match="the model to refresh from is missing"):
        loaded.refresh()
    with pytest.raises(recfx.RecfxError, match="no example inputs"):
        loaded.refresh(other)
    new = (inputs[0], inputs[1], prices[inputs[1]], inputs[3])
    loaded.refresh(other, example_inputs=new)
    close(loaded(*new), other(*new))
    assert not torch.allclose(old, loaded(*new))


def test_refresh_refuses_other_shapes() -> None:
    model = Scores()
    fast = optimize(model, example_inputs=(USER,), constant_inputs={"item_ids": IDS})
    expected = fast(USER)
    wider = Scores()
    wider.items = nn.Embedding(ITEMS + 1, 4)
    with pytest.raises(recfx.RecfxError, match=r"'items.weight' was float32\[20, 4\], now it is float32\[21, 4\]"):
        fast.refresh(wider.eval())
    with pytest.raises(recfx.RecfxError, match="constant input 'item_ids'"):
        fast.refresh(constant_inputs={"item_ids": IDS[:2]})
    with pytest.raises(recfx.RecfxError, match="not declared constant"):
        fast.refresh(constant_inputs={"user": IDS})
    assert torch.equal(fast(USER), expected)  # a failed refresh changes nothing
    del model
    gc.collect()
    with pytest.raises(recfx.RecfxError, match="the model to refresh from is missing"):
        fast.refresh()


def test_calls_go_on_while_a_refresh_runs() -> None:
    model = Scores()
    fast = optimize(model, example_inputs=(USER,), constant_inputs={"item_ids": IDS})
    trained = copy.deepcopy(model)
    with torch.no_grad():
        old = fast(USER).clone()
        trained.users.weight.mul_(2)
        trained.tower[2].weight.mul_(3)
        new = trained(IDS, USER)
    stop, wrong, seen = threading.Event(), [], [0]

    def call() -> None:
        while not stop.is_set():
            got = fast(USER)
            seen[0] += 1
            if not (torch.equal(got, old) or torch.allclose(got, new, rtol=1e-5, atol=1e-6)):
                wrong.append(got)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    fast.refresh(trained)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen[0] > 0
    close(fast(USER), new)
