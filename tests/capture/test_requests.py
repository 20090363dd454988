"""Request inputs of `optimize`: calls with one row, with equal rows, with several requests, and the errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from request_cases import hoist, request_call, small
from torch import Tensor, nn

import recfx
from recfx.errors import InputError
from recfx.ir.program import Origin


@pytest.fixture(scope="module")
def din() -> Any:
    return small("din")


@pytest.fixture(scope="module")
def fast(din: Any) -> recfx.CompiledModel:
    return hoist(din, din.example_inputs(4), ("user", "history"))


@pytest.fixture(scope="module")
def many(din: Any) -> recfx.CompiledModel:
    return hoist(din, din.example_inputs(4), ("user", "history"), many_requests=True)


def one(model: Any, batch: int, seed: int = 1) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return request_call(model.example_inputs(batch, seed=seed), (0, 2), torch.zeros(batch, dtype=torch.int64))


def test_the_signature_says_which_inputs_have_one_row(fast: recfx.CompiledModel) -> None:
    assert [leaf.shape for leaf in fast.program.signature.leaves] == [(1,), ("batch",), (1, 5)]
    assert fast.program.origins == {"user": Origin.REQUEST, "history": Origin.REQUEST}


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_one_row_and_the_same_row_for_each_candidate_give_the_same_bits(din: Any, fast: Any, batch: int) -> None:
    short, full = one(din, batch)
    got = fast(*short)
    assert torch.equal(got, fast(*full))
    assert torch.equal(got, fast(user=short[0], item=full[1], history=full[2]))
    torch.testing.assert_close(got, din(*full), rtol=1e-4, atol=1e-5)


def test_rows_that_differ_are_refused(din: Any, fast: Any) -> None:
    _, (user, item, history) = one(din, 4)
    history = history.clone()
    history[2, 1] = 0 if history[2, 1] else 3
    with pytest.raises(InputError, match="row 2 differs from row 0") as caught:
        fast(user, item, history)
    assert "history" in str(caught.value)


def test_rows_that_are_neither_one_nor_as_many_as_the_candidates_are_refused(din: Any, fast: Any) -> None:
    (user, item, _), (_, _, history) = one(din, 4)
    with pytest.raises(InputError, match="2 rows given for one request and 4 candidate"):
        fast(user, item, history[:2])
    with pytest.raises(InputError, match="rows given"):
        fast(user, item, history[:0])


def test_unchecked_rows_are_trusted(din: Any) -> None:
    trusting = hoist(din, din.example_inputs(4), ("user", "history"), check_requests=False)
    short, (user, item, history) = one(din, 4)
    history = history.clone()
    history[2:] = 0
    assert torch.equal(trusting(user, item, history), trusting(*short))


def test_not_a_number_equals_itself() -> None:
    class Sum(nn.Module):
        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (user.nan_to_num() + item).sum(1)

    inputs = (torch.randn(3, 2), torch.randn(3, 2))
    model = hoist(Sum().eval(), inputs, "user")
    row = torch.tensor([[float("nan"), 1.0]])
    assert torch.equal(model(row.expand(3, 2), inputs[1]), model(row, inputs[1]))


@pytest.mark.parametrize("requests", [1, 2, 5])
def test_several_requests_a_call(din: Any, many: Any, requests: int) -> None:
    index = torch.arange(9).flip(0) % requests
    short, full = request_call(din.example_inputs(9, seed=3), (0, 2), index)
    torch.testing.assert_close(many(*short, request_index=index), din(*full), rtol=1e-4, atol=1e-5)


def test_several_requests_need_a_valid_index(din: Any, many: Any) -> None:
    short, _ = request_call(din.example_inputs(4), (0, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="request_index"):
        many(*short)
    for bad in (torch.tensor([0, 1, 2, 0]), torch.tensor([0, -1, 0, 0])):
        with pytest.raises(InputError, match="request_index"):
            many(*short, request_index=bad)
    with pytest.raises(InputError, match="dtype"):
        many(*short, request_index=torch.zeros(4))
    with pytest.raises(InputError, match="batch"):
        many(*short, request_index=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="requests"):
        many(short[0][:1], *short[1:], request_index=torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("which", ["fast", "many"])
def test_saved_and_loaded(which: str, din: Any, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    index = torch.zeros(6, dtype=torch.int64)
    short, full = request_call(din.example_inputs(6, seed=5), (0, 2), index)
    keywords = {} if which == "fast" else {"request_index": index}
    model.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    assert torch.equal(loaded(*short, **keywords), model(*short, **keywords))
    assert loaded.program.origins == model.program.origins
    assert loaded.report.arithmetic == model.report.arithmetic
    if which == "fast":
        assert torch.equal(loaded(*full), loaded(*short))
        with pytest.raises(InputError, match="differs from row 0"):
            loaded(torch.arange(6), *full[1:])


def test_examples_may_have_one_row_of_the_request(din: Any) -> None:
    short, full = one(din, 4)
    for model in (
        hoist(din, short, ("user", "history")),
        recfx.optimize(din, request_inputs=("user", "history"), measure=False),  # captured at its first call
    ):
        torch.testing.assert_close(model(*short), din(*full), rtol=1e-4, atol=1e-5)


def test_examples_may_have_several_requests(din: Any) -> None:
    index = torch.tensor([0, 1, 1, 0])
    short, full = request_call(din.example_inputs(4), (0, 2), index)
    model = hoist(din, short, ("user", "history"), many_requests=True, example_kwargs={"request_index": index})
    torch.testing.assert_close(model(*short, request_index=index), din(*full), rtol=1e-4, atol=1e-5)


class Features(nn.Module):
    """A model over a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(9, 4)
        self.item = nn.Embedding(9, 4)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        user = torch.tanh(self.user(features["user_id"]))
        return {"score": (user * self.item(features["item_id"])).sum(1), "user": user}


def test_leaves_of_a_dictionary() -> None:
    model = Features().eval()
    features = {"user_id": torch.tensor([3, 3, 3]), "item_id": torch.tensor([1, 2, 3])}
    fast = hoist(model, ({"item_id": features["item_id"], "user_id": features["user_id"]},), "features['user_id']")
    got = fast({"user_id": torch.tensor([3]), "item_id": features["item_id"]})
    want = model(features)
    for name in want:
        torch.testing.assert_close(got[name], want[name])
    got["user"][0] = 7.0  # the caller may write to outputs
    torch.testing.assert_close(fast(features)["user"], want["user"])


def test_names_and_inputs_that_do_not_fit(din: Any) -> None:
    inputs = din.example_inputs(4)
    with pytest.raises(InputError, match="'users', which is not an input"):
        hoist(din, inputs, ("users",))
    with pytest.raises(InputError, match="every input is a request input"):
        hoist(din, inputs, ("user", "item", "history"))
    with pytest.raises(InputError, match="2 rows given for one request and 4"):
        hoist(din, (inputs[0], inputs[1], inputs[2][:2]), ("history",))
    with pytest.raises(InputError, match="every input is a request input"):
        hoist(Features().eval(), ({"user_id": torch.tensor([3]), "item_id": torch.tensor([1])},), "features")


class Bags(nn.Module):
    """A history as values and offsets, and an item."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.item = nn.EmbeddingBag(20, 4, mode="sum"), nn.Embedding(9, 4)

    def forward(self, values: Tensor, offsets: Tensor, item: Tensor) -> Tensor:
        return (self.bag(values, offsets) * self.item(item)).sum(1)


@pytest.mark.parametrize("names", [("values", "offsets"), ("values",)])
def test_bags_of_varying_length_are_refused_and_padding_is_advised(names: tuple[str, ...]) -> None:
    inputs = (torch.randint(0, 20, (9,)), torch.tensor([0, 3, 5, 8]), torch.randint(0, 9, (4,)))
    with pytest.raises(InputError, match="offsets or lengths") as caught:
        recfx.optimize(Bags().eval(), example_inputs=inputs, request_inputs=names)
    assert "values" in str(caught.value)
    assert "pad the ids" in str(caught.value)


def test_many_requests_of_what() -> None:
    with pytest.raises(InputError, match="needs request_inputs"):
        recfx.optimize(nn.Identity(), many_requests=True)


def test_an_input_called_request_index_is_the_users_own() -> None:
    class Model(nn.Module):
        def forward(self, user: Tensor, request_index: Tensor) -> Tensor:
            return user + request_index

    with pytest.raises(InputError, match="of its own"):
        hoist(Model().eval(), (torch.randn(3), torch.randn(3)), "user")


def test_do_no_harm_measures_the_users_model_on_repeated_rows(din: Any) -> None:
    short, full = one(din, 6)
    fast = hoist(din, short, ("user", "history"), measure=True)
    assert [m.batch for m in fast.report.measured][-1] == 6
    torch.testing.assert_close(fast(*short), din(*full), rtol=1e-4, atol=1e-5)
    assert "multiply-adds for 500 candidates" in str(fast.report)


def test_the_users_own_model_can_stand_in(din: Any, fast: Any, many: Any) -> None:
    from recfx.driver.measure import bind_user_model

    short, full = one(din, 5)
    (got,) = bind_user_model(fast._parts, din)(*short)
    assert torch.equal(got, din(*full).detach())
    index = torch.tensor([0, 0, 1, 1, 0])
    short, full = request_call(din.example_inputs(5), (0, 2), index)
    (got,) = bind_user_model(many._parts, din)(*short, index)
    assert torch.equal(got, din(*full).detach())
