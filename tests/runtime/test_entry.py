"""The generated entry: every check refuses inputs that do not fit, and outputs keep their nesting."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir import LeafSpec, Signature
from recfx.runtime import entry_function
from recfx.runtime.entry import _is_taken

CPU = torch.device("cpu")


def tensor(name: str, *shape: int | str, dtype: torch.dtype = torch.float32, **more: Any) -> LeafSpec:
    return LeafSpec(name, "tensor", dtype, CPU, shape, **more)


def signature_of(
    leaves: list[LeafSpec], inputs: tuple[Any, ...] | None = None, output: Any = 0, **more: Any
) -> Signature:
    """A signature of parameters a, b, ..., each one leaf unless `inputs` nests them."""
    inputs = tuple(range(len(leaves))) if inputs is None else inputs
    names = {size for leaf in leaves for size in leaf.shape if isinstance(size, str) and size.isidentifier()}
    given: dict[str, Any] = {
        "parameters": tuple("abcdefg"[: len(inputs)]),
        "defaults": {},
        "in_spec": pytree.tree_flatten((inputs, {}))[1],
        "out_spec": pytree.tree_flatten(output)[1],
        "leaves": tuple(leaves),
        "dims": dict.fromkeys(sorted(names), (1, 9)),
    }
    return Signature(**{**given, **more})


def entry_of(signature: Signature, **more: Any) -> tuple[Any, list[Any]]:
    """An entry, and the list that holds the leaves of its last call."""
    seen: list[Any] = []

    def run(*leaves: Any) -> list[Any]:
        seen[:] = leaves
        return list(range(100, 100 + signature.out_spec.num_leaves))

    return entry_function(signature, run, **more), seen


X = torch.randn(3, 4)
PLAIN = [tensor("a", "batch", 4), tensor("b", "batch", dtype=torch.int64), tensor("c", 2, 3)]
FITS = (X, torch.arange(3), torch.zeros(2, 3))


def test_inputs_that_fit_are_handed_on_as_they_are() -> None:
    entry, seen = entry_of(signature_of(PLAIN))
    assert entry(*FITS) == 100
    assert all(one is other for one, other in zip(seen, FITS, strict=True))
    assert entry(c=FITS[2], a=X, b=FITS[1]) == 100
    assert all(one is other for one, other in zip(seen, FITS, strict=True))
    for batch in (1, 9):
        entry(torch.zeros(batch, 4), torch.zeros(batch, dtype=torch.int64), FITS[2])
        assert len(seen[0]) == batch


MISFITS: dict[str, tuple[int, Any, str]] = {
    "no tensor": (0, [[1.0] * 4] * 3, "a"),
    "None": (0, None, "a"),
    "dtype": (0, X.double(), "float32"),
    "another device": (0, X.to("meta"), "meta"),
    "rank": (0, X[0], r"\[4\]"),
    "a higher rank": (0, X[None], r"\[1, 3, 4\]"),
    "fixed size": (0, torch.zeros(3, 5), "5"),
    "another batch": (1, torch.arange(4), "4"),
    "integers of another type": (1, torch.arange(3, dtype=torch.int32), "int32"),
    "first size": (2, torch.zeros(3, 3), "3"),
    "last size": (2, torch.zeros(2, 2), "2"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused(case: str) -> None:
    place, value, message = MISFITS[case]
    entry, seen = entry_of(signature_of(PLAIN))
    with pytest.raises(InputError, match=message):
        entry(*FITS[:place], value, *FITS[place + 1 :])
    assert seen == []


def test_the_range_of_a_dimension() -> None:
    for low, high, fits, wrong in ((2, 5, (2, 3, 5), (0, 1, 6)), (3, None, (3, 100), (0, 2)), (1, 1, (1,), (0, 2))):
        entry, seen = entry_of(signature_of([tensor("a", "batch", 4)], dims={"batch": (low, high)}))
        for batch in fits:
            entry(torch.zeros(batch, 4))
            assert len(seen[0]) == batch
        seen.clear()
        for batch in wrong:
            with pytest.raises(InputError, match="batch"):
                entry(torch.zeros(batch, 4))
        assert seen == []


@pytest.mark.parametrize(
    ("shapes", "fits", "wrong"),
    [
        ((("batch",), ("batch + 1",)), [(3, 4), (1, 2)], [(3, 3), (3, 5), (10, 11)]),
        ((("2*batch",), ("batch",)), [(6, 3), (2, 1)], [(5, 2), (5, 3), (6, 2), (20, 10)]),
        ((("2*batch + 1",), ("batch",)), [(7, 3), (3, 1)], [(6, 3), (8, 3), (7, 4), (1, 0)]),
        ((("batch + length",), ("batch",), ("length",)), [(5, 3, 2)], [(6, 3, 2), (5, 3, 3), (4, 3, 2)]),
        ((("batch",), ("length",), ("batch*length",)), [(3, 2, 6)], [(3, 2, 5), (3, 2, 7)]),
    ],
)
def test_sizes_that_are_expressions(shapes: Any, fits: list[Any], wrong: list[Any]) -> None:
    leaves = [tensor(name, *shape) for name, shape in zip("abc", shapes, strict=False)]
    entry, seen = entry_of(signature_of(leaves))
    for sizes in fits:
        entry(*map(torch.zeros, sizes))
        assert [len(leaf) for leaf in seen] == list(sizes)
    seen.clear()
    for sizes in wrong:
        with pytest.raises(InputError):
            entry(*map(torch.zeros, sizes))
    assert seen == []


def test_a_size_that_is_an_input() -> None:
    entry, seen = entry_of(signature_of([LeafSpec("a", "size", value="batch"), tensor("b", "batch", 4)]))
    entry(3, X)
    assert seen[0] == 3
    for wrong in (2, 4, 0):
        with pytest.raises(InputError):
            entry(wrong, X)


def test_constants_are_what_they_were() -> None:
    held = (1, 2)
    for value, others in ((True, (1, False, None)), (None, (0, False)), ("mean", ("sum", None)), (held, ((1, 3),))):
        entry, seen = entry_of(signature_of([tensor("a", "batch", 4), LeafSpec("b", "constant", value=value)]))
        entry(X, value)
        assert seen[1] is value
        seen.clear()
        for other in others:
            with pytest.raises(InputError):
                entry(X, other)
        assert seen == []


def test_tensors_that_have_to_be_contiguous() -> None:
    for needed in (True, False):
        entry, seen = entry_of(signature_of([tensor("a", 4, 3, contiguous=needed)]))
        entry(torch.zeros(4, 3))
        seen.clear()
        if needed:
            with pytest.raises(InputError, match="contiguous"):
                entry(X.T)
            assert seen == []
        else:
            entry(X.T)
            assert seen[0].shape == (4, 3)


def test_one_row_has_an_entry_of_its_own() -> None:
    calls: list[Any] = []
    signature = signature_of(PLAIN, keyword_only=frozenset({"c"}))
    entry, _ = entry_of(signature, one_row=lambda *args, **kwargs: calls.append((args, kwargs)) or "one")
    assert entry(X, FITS[1], c=FITS[2]) == 100
    assert calls == []
    one = (X[:1], FITS[1][:1])
    assert entry(*one, c=FITS[2]) == "one"
    ((args, kwargs),) = calls
    assert args[0] is one[0]
    assert args[1] is one[1]
    assert list(kwargs) == ["c"]
    assert kwargs["c"] is FITS[2]
    with pytest.raises(TypeError):
        entry(X, FITS[1], FITS[2])


def test_a_row_that_is_repeated_for_each_candidate() -> None:
    for repeats, accepted in (("refused", False), ("compared", True), ("trusted", True)):
        leaves = [tensor("a", 1, 4, repeats=repeats), tensor("b", "batch", dtype=torch.int64)]
        entry, seen = entry_of(signature_of(leaves))
        entry(X[:1], torch.arange(3))
        assert seen[0].shape == (1, 4)
        same = X[:1].repeat(3, 1)
        if not accepted:
            with pytest.raises(InputError):
                entry(same, torch.arange(3))
            continue
        entry(same, torch.arange(3))
        assert torch.equal(seen[0], X[:1])
        if repeats == "compared":
            with pytest.raises(InputError):
                entry(X, torch.arange(3))


def test_parameters_left_at_their_defaults() -> None:
    default = torch.zeros(2)
    entry, seen = entry_of(signature_of([tensor("a", "batch", 4)], defaults={"scale": 2.0, "held": default}))
    for given in ({}, {"scale": 2.0}, {"held": default}):
        seen.clear()
        entry(X, **given)
        assert seen[0] is X
    for given in ({"scale": 3.0}, {"held": torch.zeros(2) + 1}):
        seen.clear()
        with pytest.raises(InputError):
            entry(X, **given)
        assert seen == []
    with pytest.raises(TypeError):
        entry(X, 2.0)


NAMES = ["input", "out", "lambda", "x0", "a1", "_run", "list", "m3", "ab12", "not a name"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["parameter", "default"])
def test_names_that_the_generated_code_uses(name: str, place: str) -> None:
    assert _is_taken(name)
    more: dict[str, Any] = {"parameters": ("a", name)} if place == "parameter" else {"defaults": {name: 2.0}}
    signature = signature_of(PLAIN[:2] if place == "parameter" else PLAIN[:1], **more)
    entry, seen = entry_of(signature)
    if place == "parameter":
        for call in (
            lambda: entry(X, FITS[1]),
            lambda: entry(X, **{name: FITS[1]}),
            lambda: entry(a=X, **{name: FITS[1]}),
        ):
            call()
            assert seen[0] is X
            assert seen[1] is FITS[1]
        with pytest.raises(TypeError, match="takes at most 2 positional arguments, got 3"):
            entry(X, FITS[1], FITS[1])
    else:
        entry(X, **{name: 2.0})
        assert seen[0] is X
        with pytest.raises(InputError):
            entry(X, **{name: 3.0})


@pytest.mark.parametrize("name", ["a", "x", "dense", "user_id", "out_features", "abc12", "features"])
def test_names_that_are_free(name: str) -> None:
    assert not _is_taken(name)


def test_keyword_only_parameters_of_any_name() -> None:
    signature = signature_of(PLAIN[:2], parameters=("a", "out"), keyword_only=frozenset({"out"}))
    entry, seen = entry_of(signature)
    entry(X, out=FITS[1])
    assert seen[1] is FITS[1]
    with pytest.raises(TypeError, match="takes at most 1 positional arguments, got 2"):
        entry(X, FITS[1])


def test_nested_inputs() -> None:
    nested = ([0, (0,)], {"k": 0, "l": [0]})
    leaves = [tensor(name, "batch", 4) for name in ("a[0]", "a[1][0]", "b['k']", "b['l'][0]")]
    entry, seen = entry_of(signature_of(leaves, nested))
    given = [torch.full((3, 4), float(at)) for at in range(4)]
    entry([given[0], (given[1],)], {"k": given[2], "l": [given[3]]})
    assert all(one is other for one, other in zip(seen, given, strict=True))
    entry([given[0], (given[1],)], {"l": [given[3]], "k": given[2]})
    assert all(one is other for one, other in zip(seen, given, strict=True))
    fine, mapping = [given[0], (given[1],)], {"k": given[2], "l": [given[3]]}
    seen.clear()
    for first, second in (
        (tuple(fine), mapping),
        ([given[0], [given[1]]], mapping),
        ([given[0]], mapping),
        ([*fine, given[0]], mapping),
        ([given[0], (given[1], given[1])], mapping),
        (fine, {"k": given[2]}),
        (fine, {**mapping, "m": given[2]}),
        (fine, {"k": given[2], "m": [given[3]]}),
        (fine, {**mapping, "l": []}),
        (fine, [given[2], [given[3]]]),
    ):
        with pytest.raises(InputError):
            entry(first, second)
        assert seen == []


Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Scores:
    click: Any
    buy: Any


pytree.register_dataclass(Scores, serialized_type_name="recfx_tests.Scores")


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        (0, 100),
        ((0,), (100,)),
        ((), ()),
        ([0, 0], [100, 101]),
        ((0, [0, (0, 0)]), (100, [101, (102, 103)])),
        ({"a": 0, "b": (0, 0)}, {"a": 100, "b": (101, 102)}),
        ({1: 0, 2: 0}, {1: 100, 2: 101}),
        (collections.OrderedDict(b=0, a=0), collections.OrderedDict(b=100, a=101)),
        (Pair(0, [0]), Pair(100, [101])),
        (Scores(0, (0,)), Scores(100, (101,))),
    ],
    ids=str,
)
def test_outputs_come_back_as_they_were_nested(nested: Any, expected: Any) -> None:
    entry, _ = entry_of(signature_of(PLAIN[:1], output=nested))
    found = entry(X)
    assert found == expected
    assert type(found) is type(expected)


def test_declared_constants_may_be_passed_or_left_out() -> None:
    signature = signature_of(PLAIN[:2], constants={"table": None}, forward=("a", "table", "b"))
    entry, seen = entry_of(signature)
    for call in (
        lambda: entry(X, FITS[1]),
        lambda: entry(X, "anything", FITS[1]),
        lambda: entry(X, b=FITS[1]),
        lambda: entry(X, table="anything", b=FITS[1]),
    ):
        seen.clear()
        call()
        assert seen[0] is X
        assert seen[1] is FITS[1]
