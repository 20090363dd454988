"""Named tensors of compiled models: names, checks, and several requests in one call."""

from __future__ import annotations

import dataclasses

import bag_models
import pytest
import torch
from engine_kit import compiled, expected, tensors, variant
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.errors import InputError, TargetError
from recfx.serve.engine.interface import ModelInterface, TensorInfo
from recfx.serve.engine.served import difference


def interface_of(model, inputs, **options):
    return ModelInterface(recfx.optimize(model.eval(), target="eager", example_inputs=inputs, measure=False, **options))


def test_names_types_and_sizes():
    interface = ModelInterface(compiled())
    assert interface.inputs == (TensorInfo("dense", torch.float32, (-1, 5)), TensorInfo("sparse", torch.int64, (-1, 3)))
    assert interface.outputs == (TensorInfo("output", torch.float32, (-1,)),)
    assert [info.datatype for info in interface.inputs] == ["FP32", "INT64"]
    assert interface.joinable is None


class Features(nn.Module):
    def forward(self, features, state):
        total = features["user_id"].float() + features["price"] * state[0] + state[1]
        return {"score": total, "parts": (total * 2, features["user_id"] + 1)}


def test_names_inside_dictionaries_and_tuples():
    features = {"user_id": torch.arange(4), "price": torch.rand(4)}
    interface = interface_of(Features(), (features, (torch.rand(4), torch.rand(4))))
    assert [info.name for info in interface.inputs] == ["features.user_id", "features.price", "state.0", "state.1"]
    outputs = {info.name: info for info in interface.outputs}
    assert set(outputs) == {"output.score", "output.parts.0", "output.parts.1"}
    assert outputs["output.parts.1"].dtype is torch.int64
    request = {info.name: torch.ones(2, dtype=info.dtype) for info in interface.inputs}
    found = dict(zip(outputs, interface.call(interface.leaves(request)), strict=True))
    assert found["output.score"].tolist() == [3.0, 3.0]
    assert found["output.parts.1"].tolist() == [2, 2]


@given(rows=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_joined_requests_have_the_answers_of_single_ones(rows, seed):
    interface = ModelInterface(compiled())
    requests = [tensors(n, seed + k) for k, n in enumerate(rows)]
    leaves = [interface.leaves(request) for request in requests]
    assert [interface.rows(each) for each in leaves] == rows
    divided = interface.divide(interface.call(interface.join(leaves)), rows)
    for request, (output,) in zip(requests, divided, strict=True):
        torch.testing.assert_close(output, expected(request))


def test_the_batch_size_among_the_inputs_is_that_of_the_joined_call():
    class Sized(nn.Module):
        def forward(self, x, size):
            return x.reshape(size, -1).sum(1)

    interface = interface_of(Sized(), (torch.rand(4, 3), 4))
    assert [info.name for info in interface.inputs] == ["x"]
    requests = [interface.leaves({"x": torch.full((n, 3), float(n))}) for n in (2, 3)]
    assert [leaves[1] for leaves in requests] == [2, 3]
    joined = interface.join(requests)
    assert joined[1] == 5
    assert [o[0].tolist() for o in interface.divide(interface.call(joined), (2, 3))] == [[6.0, 6.0], [9.0, 9.0, 9.0]]


def test_flattened_ids_are_joined_row_by_row():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 2)

        def forward(self, dense, ids):
            return self.table(ids).reshape(dense.shape[0], -1).sum(1) + dense.sum(1)

    torch.manual_seed(0)
    model = Flat()
    interface = interface_of(model, (torch.rand(4, 5), torch.arange(12) % 9))
    requests = [(torch.rand(n, 5), torch.randint(0, 9, (3 * n,))) for n in (2, 4)]
    leaves = [interface.leaves({"dense": dense, "ids": ids}) for dense, ids in requests]
    outputs = interface.divide(interface.call(interface.join(leaves)), [interface.rows(each) for each in leaves])
    for request, (output,) in zip(requests, outputs, strict=True):
        torch.testing.assert_close(output, model(*request))


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Request(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, user, items):
        return (self.user(user) * self.item(items)).sum(1)


def test_why_requests_do_not_share_a_call():
    assert "depend on one another" in (interface_of(Mean(), (torch.rand(4, 3),)).joinable or "")
    one = interface_of(Request(), (torch.rand(1, 3), torch.rand(4, 4)), request_inputs=["user"])
    assert one.joinable == "the input user belongs to a whole request"
    rng = bag_models.generator(0)
    make, inputs = bag_models.FORMS["offsets, sums"]
    bags = interface_of(make(), inputs(bag_models.lengths_of(4, 3, rng), rng))
    assert bags.joinable == "the model takes bags of ids"
    fixed = recfx.optimize(
        Mean().eval(), target="eager", example_inputs=(torch.rand(4, 3),), dynamic_shapes=False, measure=False
    )
    assert ModelInterface(fixed).joinable is not None


def wrong(**changes):
    request = {**tensors(3), **changes}
    return {name: value for name, value in request.items() if value is not None}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (wrong(sparse=None), "missing sparse"),
        (wrong(other=torch.zeros(3)), "unknown other"),
        (wrong(dense=torch.zeros(3, 6)), r"expected shape \[-1, 5\], got \[3, 6\]"),
        (wrong(dense=torch.zeros(3, 5, 1)), "expected shape"),
        (wrong(dense=torch.zeros(())), "expected shape"),
        (wrong(dense=torch.zeros(3, 5, dtype=torch.float64)), "expected datatype FP32, got FP64"),
        (wrong(sparse=torch.zeros(3, 3)), "expected datatype INT64, got FP32"),
        (wrong(sparse=torch.full((3, 3), 2**64 - 1, dtype=torch.uint64)), "does not fit into INT64"),
        (wrong(dense=torch.zeros(4, 5)), "dense has 4, sparse has 3"),
    ],
)  # fmt: skip
def test_requests_that_do_not_fit_are_refused(request_, message):
    interface = ModelInterface(compiled())
    with pytest.raises(InputError, match=message):
        interface.rows(interface.leaves(request_))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.uint64, torch.int16])
def test_integers_of_another_width_are_converted(dtype):
    interface = ModelInterface(compiled())
    request = tensors(3)
    (output,) = interface.call(interface.leaves({**request, "sparse": request["sparse"].to(dtype)}))
    torch.testing.assert_close(output, expected(request))


def test_interfaces_are_compared_by_name_type_and_sizes():
    first, other = ModelInterface(compiled()), ModelInterface(compiled(1))
    assert difference(first, other) is None
    narrow = interface_of(Mean(), (torch.rand(4, 3),))
    assert "only the model that is served has the input dense: FP32[-1, 5]" in (difference(first, narrow) or "")
    assert "input x" in (difference(narrow, first) or "")


def test_a_model_whose_output_is_no_tensor_is_refused():
    class Size(nn.Module):
        def forward(self, x):
            return x * 2, x.shape[0]

    with pytest.raises(TargetError, match=r"output\.1 of the model cannot be sent"):
        interface_of(Size(), (torch.rand(4, 3),))


def test_complex_inputs_are_refused():
    class Real(nn.Module):
        def forward(self, x):
            return x.real

    with pytest.raises(TargetError, match="cannot be sent in a request"):
        interface_of(Real(), (torch.rand(4, 3, dtype=torch.complex64),))


class Bounded(nn.Module):
    """A bag between each two of its offsets, and nothing else."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 4, mode="sum", include_last_offset=True)

    def forward(self, ids, offsets):
        return self.bag(ids, offsets)


def test_the_rows_of_bags_are_counted_by_their_offsets():
    bags = interface_of(Bounded(), (torch.arange(9), torch.arange(0, 10, 3)))
    for count in (1, 4, 7):
        leaves = bags.leaves({"ids": torch.arange(2 * count), "offsets": torch.arange(0, 2 * count + 1, 2)})
        assert bags.rows(leaves) == count
    assert bags.rows([torch.zeros(0, dtype=torch.int64) for _ in leaves]) == 0


def test_variants_of_equal_content_are_different_keys():
    """Variants are compared by identity: their times and interfaces need neither equality nor a hash."""
    first = variant()
    second = dataclasses.replace(first)
    assert first != second
    assert len({first, second}) == 2
