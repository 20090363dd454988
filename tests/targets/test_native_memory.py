"""Tensors without memory, or whose memory does not hold their numbers as they are, are never read as if it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ids_kit import inputs, program
from native_kit import lower, needs_kernels, program_of
from torch._subclasses import FakeTensorMode

import recfx
from recfx.errors import InputError
from recfx.kernels.memory import address
from recfx.retrieval import Index

pytestmark = [needs_kernels, pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")]


class Wrapper(torch.Tensor):
    """A tensor whose numbers are stored in another tensor, as in quantised and distributed tensors."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)  # type: ignore[attr-defined]
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(str(function))


def freed(x: torch.Tensor) -> torch.Tensor:
    """A tensor whose storage was freed, as sharded training does between uses."""
    own = x.clone()
    own.untyped_storage().resize_(0)
    return own


WITHOUT_MEMORY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a wrapper": Wrapper,
    "a fake tensor": lambda x: FakeTensorMode().from_tensor(x),
    "freed": freed,
}


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_inputs_without_memory_are_refused(kind: str) -> None:
    """Their data pointer is null, which no kernel may read."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
    x = torch.randn(3, 4)
    fast = recfx.optimize(model, "native", example_inputs=x, measure=False)
    with pytest.raises(InputError, match="an input of a native plan, is a tensor without memory"):
        fast(WITHOUT_MEMORY[kind](x))
    torch.testing.assert_close(fast(x), model(x))


def test_results_without_memory_are_refused() -> None:
    x = torch.ones(2, 3)
    run = lower(program_of(lambda x: x * 2.0 + 1.0, [x], []))
    with pytest.raises(InputError, match="a result of a native plan, is a tensor without memory"), FakeTensorMode():
        run(x)


@pytest.mark.parametrize("which", range(4))
def test_jagged_inputs_need_memory_where_they_have_elements(which: int) -> None:
    form = "jagged mean, weighted"
    run = lower(program(form, 32, 16, torch.int64))
    given = inputs(form, torch.int64, 4)
    (want,) = run(*given)
    with pytest.raises(InputError, match="without memory"):
        run(*(freed(x) if i == which else x for i, x in enumerate(given)))
    dense, ids, factors, offsets = given
    assert ids[:0].clone().data_ptr() == 0
    (empty,) = run(dense, ids[:0].clone(), factors[:0].clone(), torch.zeros_like(offsets))
    assert empty.count_nonzero() == len(dense)  # the dense column alone
    assert torch.equal(run(*given)[0], want)


@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
def test_queries_without_memory_are_refused(kind: str) -> None:
    index, queries = Index.from_embeddings(torch.randn(40, 8)), torch.randn(3, 8)
    for ask in (index.search, index.shortlist):
        with pytest.raises(InputError, match=r"a tensor torch.float32 \[3, 8\] has no memory of its own"):
            ask(WITHOUT_MEMORY[kind](queries), 5)


def test_weights_without_memory_are_refused() -> None:
    with pytest.raises(InputError, match="has no memory of its own"):
        address(freed(torch.ones(2)))
    assert address(torch.empty(0)) == 0


def test_numbers_that_stand_for_their_negatives() -> None:
    """The imaginary part of a conjugate shares the numbers of the original, with a flag that their sign is inverted."""
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    negative = torch._neg_view(weight)
    assert negative.is_contiguous()
    for given, state in ((x, negative), (torch.complex(x, x).conj().imag, weight)):
        run = lower(program_of(lambda a, b: torch.nn.functional.linear(a, b) * 2.0, [x], [state]))
        torch.testing.assert_close(run(given)[0], torch.nn.functional.linear(given, state) * 2.0)
    index, queries = Index.from_embeddings(torch.randn(40, 4)), torch.randn(3, 4)
    for one, other in zip(index.search(torch._neg_view(queries), 5), index.search(-queries, 5), strict=True):
        assert torch.equal(one, other)


OTHER_LAYOUTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "coordinates": (torch.Tensor.to_sparse, "the layout torch.sparse_coo"),
    "compressed rows": (torch.Tensor.to_sparse_csr, "the layout torch.sparse_csr"),
    "of another library": (torch.Tensor.to_mkldnn, "the layout torch._mkldnn"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), "a nested tensor"),
    "nested, jagged": (
        lambda x: torch.nested.nested_tensor([x[:1], x[1:]], layout=torch.jagged), "a nested tensor"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_other_layouts_are_refused(name: str) -> None:
    change, message = OTHER_LAYOUTS[name]
    x = torch.randn(3, 4)
    fast = recfx.optimize(torch.nn.Linear(4, 8).eval(), "native", example_inputs=x, measure=False)
    with pytest.raises(InputError, match=f"expected a dense tensor, got {message}"):
        fast(change(x))
    index = Index.from_embeddings(torch.randn(40, 4))
    if not name.startswith("nested"):
        with pytest.raises(InputError, match="queries must be a dense tensor"):
            index.search(change(x), 5)
