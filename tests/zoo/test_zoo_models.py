"""Properties of every model: example inputs, gradients, learning."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from recfx.zoo import DIEN, MODELS, ZooError, ZooModel

#: Parameters whose gradient is zero in exact arithmetic: a softmax over one expert or one position, a first state of 0.
VANISHING: dict[str, tuple[str, ...]] = {
    "mmoe-one-task": ("gates",),
    "dien-one-place": ("relevance", "extractor.weight_hh", "evolution.state", "next_item"),
}


def test_example_inputs_depend_on_their_arguments_alone(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case)
    torch.manual_seed(1)
    first = model.example_inputs(5, zipf=1.2, seed=7)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = model.example_inputs(5, zipf=1.2, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = model.example_inputs(5, zipf=1.2, seed=8)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is not used


#: Case -> the number of its parameters: tests and examples count on small models that stay as they are.
PARAMETERS = {
    "dlrm": 1_001,
    "wide-deep": 1_512,
    "deepfm": 1_287,
    "xdeepfm": 2_168,
    "dcn-v2": 2_165,
    "autoint": 1_035,
    "din": 774,
    "dien": 7_688,
    "bst": 1_977,
    "mmoe": 1_696,
    "two-tower": 692,
    "sasrec": 400,
    "lightgcn": 280,
    "ngcf": 382,
    "mf": 280,
    "neumf": 606,
    "dlrm-diagonal": 1_049,
    "dlrm-one-table": 177,
    "wide-deep-no-cross": 1_175,
    "deepfm-no-batch-norm": 1_263,
    "xdeepfm-one-layer": 1_533,
    "dcn-v2-low-rank": 1_205,
    "dcn-v2-parallel": 2_189,
    "dcn-v2-low-rank-parallel": 1_349,
    "autoint-plus": 1_372,
    "din-softmax": 756,
    "din-no-categories": 586,
    "dien-relu": 7_676,
    "dien-one-place": 7_688,
    "bst-two-layers": 1_701,
    "mmoe-one-task": 1_035,
    "two-tower-no-categories": 632,
    "sasrec-one-head": 454,
    "lightgcn-no-layers": 280,
}


def test_small_models_keep_their_sizes(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[case]


#: Buffers that hold data, which a saved model needs; the other buffers follow from the arguments of the model.
DATA = ("category_of", "offsets", "neighbours", "weights")


def test_a_state_holds_parameters_and_data_only(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    others = model.state_dict().keys() - parameters
    norms = [name for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm1d)]
    normalised = {f"{n}.{key}" for n in norms for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert {name for name in others - normalised if name.rsplit(".", 1)[-1] not in DATA} == set()
    assert {name for name, _ in model.named_buffers() if name.rsplit(".", 1)[-1] in DATA} <= others


@pytest.mark.parametrize("zipf", [None, 0.0, 0.7, 1.0, 1.2])
def test_example_inputs_are_accepted(case: str, make_model: Callable[[str], ZooModel], zipf: float | None) -> None:
    model = make_model(case)
    for batch in (0, 1, 300):
        inputs = model.example_inputs(batch, zipf=zipf)
        assert all(part.shape[0] == batch for part in inputs)
        assert all(part.dtype in (torch.int64, torch.float32) for part in inputs)
        with torch.no_grad():
            out = model(*inputs)
        assert out.shape[0] == batch
        assert out.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_bad_draws_are_refused(name: str) -> None:
    model = MODELS[name].small()
    with pytest.raises(ZooError, match="batch"):
        model.example_inputs(-1)
    for exponent in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ZooError, match="exponent"):
            model.example_inputs(2, zipf=exponent)


def test_gradients_reach_every_parameter(case: str, make_model: Callable[[str], ZooModel]) -> None:
    model = make_model(case).train()
    inputs = model.example_inputs(256)
    weights = torch.randn(256, generator=torch.Generator().manual_seed(0))
    out = model(*inputs)
    loss = (out.reshape(256, -1).mean(1) * weights).sum()
    if isinstance(model, DIEN):
        _, _, history = inputs
        loss = loss + model.auxiliary_loss(history, 1 + (history + 3) % model.num_items)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.startswith(VANISHING.get(case, ())):
            assert parameter.grad.abs().sum() > 0, name


#: Overrides for learning: no dropout, and hidden layers wide enough that not all their ReLUs die.
LARGER: dict[str, dict[str, object]] = {
    "bst": {"dropout": 0.0},
    "sasrec": {"dropout": 0.0},
    "dcn-v2": {"deep": (32, 16)},
    "mmoe": {"expert": (32, 16), "tower": (16,)},
}


@pytest.mark.parametrize("name", MODELS)
def test_models_learn(name: str) -> None:
    torch.manual_seed(0)
    overrides = LARGER.get(name, {})
    model = MODELS[name].small(**overrides).train()
    inputs = model.example_inputs(64)
    with torch.no_grad():
        shape = model(*inputs).shape
    labels = (torch.rand(shape) < 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(*inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0], losses[::10]
