"""TorchRec's containers are reduced to the tensors that define them, or refused where other parts contradict these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jagged_cases import (
    BATCH,
    FORMS,
    INVERSE,
    KEYS,
    LENGTHS,
    OFFSETS,
    STRIDES,
    VALUES,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
    bags,
    keyed_jagged,
)
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir import containers
from recfx.ir.containers import canonical, canonical_output, container_kind, container_mismatch, defining_leaves

pytestmark = [pytest.mark.slow, pytest.mark.torchrec]


class Own:
    """A class whose name is that of a container."""


Own.__name__ = "KeyedTensor"


def keyed(**parts: Any) -> Any:
    return KeyedTensor(**{"keys": ["a", "b"], "length_per_key": [1, 2], "values": torch.ones(4, 3), **parts})


def test_containers_are_known_by_their_types() -> None:
    assert [container_kind(t) for t in (KeyedJaggedTensor, JaggedTensor, KeyedTensor)] == list(containers.LEAVES)
    assert [container_kind(t) for t in (Own, torch.Tensor, dict, None)] == [None] * 4
    assert containers.is_container(keyed())
    assert not containers.is_container(Own())


@pytest.mark.parametrize("form", FORMS)
def test_leaves_are_as_many_as_those_of_torchrec(form: str) -> None:
    jagged = FORMS[form]()
    assert len(defining_leaves(jagged)) == len(pytree.tree_leaves(jagged, is_leaf=lambda v: v is None))
    assert len(defining_leaves(jagged)) == containers.LEAVES["KeyedJaggedTensor"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("used", [False, True])
def test_a_container_without_its_caches_holds_the_same(form: str, used: bool) -> None:
    given = FORMS[form]()
    if used:
        given.length_per_key(), given.offset_per_key(), given.stride_per_key(), given.to_dict()
        given.offsets(), given.lengths_offset_per_key()
    made = canonical(given)
    assert type(made) is KeyedJaggedTensor
    assert made._offsets is made._length_per_key is made._offset_per_key is made._jt_dict is made._stride is None
    assert made.keys() == given.keys()
    assert torch.equal(made.lengths(), LENGTHS)
    assert made.lengths().dtype is given.lengths().dtype
    assert made.stride() == FORMS[form]().stride()
    assert made.stride_per_key() == FORMS[form]().stride_per_key()
    assert bags(made) == bags(FORMS[form]())


@pytest.mark.parametrize("offsets", [False, True])
def test_a_jagged_tensor_without_its_caches_holds_the_same(offsets: bool) -> None:
    bounds = {"offsets": OFFSETS} if offsets else {"lengths": LENGTHS}
    weights = torch.rand(len(VALUES))
    given = JaggedTensor(VALUES, weights, **bounds)
    given.offsets(), given.lengths()
    made = canonical(given)
    assert made._offsets is None
    assert torch.equal(made.lengths(), LENGTHS)
    assert made.values() is given.values()
    assert made.weights() is weights


def test_a_keyed_tensor_and_other_values() -> None:
    for dim in (1, -1):
        given = keyed(key_dim=dim)
        made = canonical(given)
        assert (made.keys(), made.length_per_key(), made.values()) == (["a", "b"], [1, 2], given.values())
    x = torch.ones(2)
    assert canonical(x) is x
    nested = containers.all_canonical({"x": x, "k": [FORMS["offsets"]()]})
    assert nested["x"] is x
    assert nested["k"][0]._offsets is None


def test_inverse_indices_come_in_the_order_of_the_keys() -> None:
    order = [2, 0, 1]
    given = keyed_jagged(lengths=LENGTHS, inverse_indices=([KEYS[i] for i in order], INVERSE[order]))
    assert canonical(given).inverse_indices()[0] == KEYS
    assert torch.equal(canonical(given).inverse_indices()[1], INVERSE)


def test_no_values_and_no_keys() -> None:
    none = keyed_jagged(values=VALUES[:0], lengths=LENGTHS * 0)
    assert bags(canonical(none)) == {key: [[]] * BATCH for key in KEYS}
    without = KeyedJaggedTensor(keys=[], values=VALUES[:0], lengths=LENGTHS[:0], stride=0)
    assert canonical(without).keys() == []


def changed(**attributes: Any) -> Callable[[], Any]:
    """A KeyedJaggedTensor whose attributes were set after its construction."""

    def make() -> Any:
        made = FORMS["lengths"]()
        for name, value in attributes.items():
            setattr(made, name, value)
        return made

    return make


#: What is wrong -> the container, and the message.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "keys along dimension 0": (lambda: keyed(key_dim=0), "key_dim=0 and values with 2 dimensions"),
    "three dimensions": (lambda: keyed(values=torch.ones(4, 3, 2)), "key_dim=1 and values with 3 dimensions"),
    "first offset": (lambda: keyed_jagged(offsets=OFFSETS + 1), "offsets that start at 1"),
    "no offset": (lambda: keyed_jagged(offsets=OFFSETS[:0]), r"offsets of shape \[0\]"),
    "matrix of offsets": (lambda: keyed_jagged(offsets=OFFSETS[None]), r"offsets of shape \[1, 13\]"),
    "matrix of lengths": (lambda: keyed_jagged(lengths=LENGTHS.view(3, 4)), r"lengths of shape \[3, 4\]"),
    "lengths beside offsets": (
        lambda: keyed_jagged(lengths=LENGTHS.flip(0), offsets=OFFSETS),
        "lengths that differ from its offsets",
    ),
    "lengths of another type beside offsets": (
        lambda: keyed_jagged(lengths=LENGTHS.flip(0).int(), offsets=OFFSETS),
        "lengths that differ from its offsets",
    ),
    "fewer lengths than offsets": (
        lambda: keyed_jagged(lengths=LENGTHS[:-1], offsets=OFFSETS),
        "lengths that differ from its offsets",
    ),
    "offsets before the last value": (
        lambda: keyed_jagged(offsets=OFFSETS - torch.cat([torch.zeros(12), torch.ones(1)]).long()),
        "lengths that add up to 14 and 15 values",
    ),
    "lengths beyond the last value": (lambda: keyed_jagged(lengths=LENGTHS + 1), "lengths that add up to 27 and 15"),
    "stride": (lambda: keyed_jagged(lengths=LENGTHS, stride=5), "stride=5, while its other parts give 4"),
    "stride without keys": (
        lambda: KeyedJaggedTensor(keys=[], values=VALUES[:0], lengths=LENGTHS[:0], stride=2),
        "stride=2, while its other parts give 0",
    ),
    "strides of the keys": (
        lambda: keyed_jagged(lengths=LENGTHS, stride_per_key=[4, 4, 5]),
        r"stride_per_key=\[4, 4, 5\], while its lengths give \[4, 4, 4\]",
    ),
    "stride beside strides": (
        lambda: keyed_jagged(lengths=LENGTHS, stride_per_key_per_rank=STRIDES, stride=5),
        "stride=5, while its other parts give 6",
    ),
    "stride beside inverse indices": (
        lambda: keyed_jagged(
            lengths=LENGTHS, stride_per_key_per_rank=STRIDES, inverse_indices=(KEYS, INVERSE), stride=6
        ),
        "stride=6, while its other parts give 5",
    ),
    "strides that are said to vary": (changed(_variable_stride_per_key=True), "a variable_stride_per_key that differs"),
    "inverse indices of another key": (
        lambda: keyed_jagged(lengths=LENGTHS, inverse_indices=(["a", "b", "d"], INVERSE)),
        r"inverse_indices of shape \[3, 5\] for the keys \['a', 'b', 'd'\]",
    ),
    "inverse indices twice": (
        lambda: keyed_jagged(lengths=LENGTHS, inverse_indices=(["a", "b", "c", "a"], INVERSE[[0, 1, 2, 0]])),
        "inverse_indices of shape",
    ),
    "a row of inverse indices too many": (
        lambda: keyed_jagged(lengths=LENGTHS, inverse_indices=(KEYS, INVERSE[[0, 1, 2, 0]])),
        "inverse_indices of shape",
    ),
    "a vector of inverse indices": (
        lambda: keyed_jagged(lengths=LENGTHS, inverse_indices=(KEYS, INVERSE[:, 0])),
        "inverse_indices of shape",
    ),
    "parts of other values": (
        changed(_jt_dict={key: JaggedTensor(VALUES.clone()[:5], lengths=torch.tensor([5])) for key in KEYS}),
        "a jt_dict that was not made from its values",
    ),
    "parts of other keys": (changed(_jt_dict=dict(FORMS["lengths"]().to_dict(), d=None)), "a jt_dict that was not"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_parts_that_contradict_each_other_are_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(InputError, match=message) as caught:
        canonical(make())
    assert caught.value.hint
    if "KeyedTensor" not in str(caught.value.where):
        assert str(caught.value.where) == f"KeyedJaggedTensor with the keys {list(make().keys())}"


def test_outputs_are_checked_and_returned() -> None:
    output = {"x": torch.ones(2), "k": keyed(), "j": changed(_variable_stride_per_key=True)()}
    assert canonical_output(output) is output
    with pytest.raises(InputError, match="key_dim=0"):
        canonical_output([output, keyed(key_dim=0)])


def test_containers_below_the_top_of_a_nesting() -> None:
    def holds(value: Any) -> bool:
        return containers.holds_container(pytree.tree_structure(value))

    assert holds([keyed()])
    assert holds({"a": [torch.ones(1), (FORMS["lengths"](), 2)]})
    assert not holds(keyed())
    assert not holds([torch.ones(1), {"a": 1}])


@pytest.mark.parametrize("nest", [lambda v: v, lambda v: [v], lambda v: {"x": torch.ones(1), "k": (1, v)}])
def test_a_container_of_other_keys_is_named(nest: Callable[[Any], Any]) -> None:
    def error(given: Any, captured: Any) -> InputError | None:
        return container_mismatch(pytree.tree_structure(nest(given)), pytree.tree_structure(nest(captured)))

    found = error(FORMS["lengths"](), keyed_jagged(keys=["a", "c", "b"], lengths=LENGTHS))
    assert found is not None
    assert found.what == "the KeyedJaggedTensor has the keys ['a', 'b', 'c'], the example inputs had ['a', 'c', 'b']"
    assert error(FORMS["weights"](), FORMS["offsets"]()) is None
    assert error(keyed(), keyed(length_per_key=[2, 1])) is not None
    assert error(keyed(), FORMS["lengths"]()) is None
    assert error([keyed()], [keyed(), keyed(length_per_key=[2, 1])]) is None
    assert error(torch.ones(1), torch.ones(2)) is None


def test_parts_that_are_not_tensors() -> None:
    assert containers.container_keys(FORMS["lengths"]()) == KEYS
    assert containers.container_keys(keyed()) == (["a", "b"], [1, 2])
    assert containers.container_keys(JaggedTensor(VALUES, lengths=LENGTHS)) is None


def test_the_values_of_a_keyed_tensor_get_a_name() -> None:
    containers.name_parts([keyed(), torch.ones(1), FORMS["lengths"]()])
    (path, leaf), *more = pytree.tree_flatten_with_path(keyed())[0]
    assert (pytree.keystr(path), list(leaf.shape), more) == ("._values", [4, 3], [])
    containers.name_parts([keyed()])
