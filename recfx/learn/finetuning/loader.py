"""Batches of a user's loader: in the same order again after a run was stopped, as inputs and labels."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from recfx.errors import InputError

_FORMS = (
    "a tuple of inputs and labels, with the labels last, or a dict with labels='NAME' for the name of the labels in it"
)


class Labelled(NamedTuple):
    """A batch.

    Attributes:
        args: Positional inputs.
        kwargs: Inputs by keyword.
        labels: The labels.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Any


class Loader:
    """One epoch of a loader after another, drawn from a generator.

    Random draws of the loader, from torch's global generator or from one of its own (`loader.generator`), start from a seed that comes from
    the generator. torch's global generator keeps its state for the model.

    Args:
        loader: An iterable of batches that can be iterated again, such as a `DataLoader`, a list or `recfx.data.Batches`.

    Raises:
        InputError: It cannot be iterated, or only once, or is known to be empty.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if not isinstance(loader, Iterable) or isinstance(loader, str | torch.Tensor):
            raise InputError(
                f"the loader is an iterable of batches, got {type(loader).__name__}",
                where="loader",
                hint=f"give {_FORMS}",
            )
        if isinstance(loader, Iterator):
            raise InputError(
                "the loader can be iterated only once",
                where=type(loader).__name__,
                hint="pass a list, a DataLoader or another object that starts again for each epoch",
            )
        if _length(loader) == 0:
            raise InputError("the loader has no batches", where="loader", hint="pass at least one batch")
        self._loader = loader

    def __call__(self, generator: torch.Generator) -> Iterable[Any]:
        """One epoch."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return _Epoch(self._loader, seed) if _length(self._loader) is None else _SizedEpoch(self._loader, seed)


def _length(loader: Iterable[Any]) -> int | None:
    """The number of batches; None when it is not known. A `DataLoader` over a stream has a length that raises."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


class _Epoch:
    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        self._loader, self._seed = loader, seed

    def __iter__(self) -> Iterator[Any]:
        for owner in (self._loader, getattr(self._loader, "sampler", None)):
            own = getattr(owner, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(self._seed)
        drawn = torch.Generator().manual_seed(self._seed).get_state()
        batches: Iterator[Any] | None = None
        while True:
            before = torch.get_rng_state()
            torch.set_rng_state(drawn)
            try:
                batches = iter(self._loader) if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            finally:
                drawn = torch.get_rng_state()
                torch.set_rng_state(before)
            yield batch


class _SizedEpoch(_Epoch):
    def __len__(self) -> int:
        return _length(self._loader) or 0


def labelled(batch: Any, module: nn.Module, labels: str | None) -> Labelled:
    """A batch as inputs and labels.

    Args:
        batch: A tuple or list that ends in the labels, after the inputs, or after one tuple or dict of all inputs; or a dict.
        module: The model that the inputs are for.
        labels: The key of the labels in a dict.

    Raises:
        InputError: The batch has another form.
    """
    if isinstance(batch, Mapping):
        if labels not in batch:
            raise InputError(
                f"a batch is a dict of {sorted(map(str, batch))}, in which {labels!r} does not name the labels",
                where="loader",
                hint="pass labels= with the key of the labels",
            )
        inputs: Any = {key: value for key, value in batch.items() if key != labels}
        return _split(inputs, module, batch[labels])
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        got = f"{len(batch)} element(s)" if isinstance(batch, tuple | list) else type(batch).__name__
        raise InputError(f"a batch must hold inputs and labels, got {got}", where="loader", hint=f"give {_FORMS}")
    if len(batch) == 2 and isinstance(batch[0], tuple | list | Mapping):
        return _split(batch[0], module, batch[1])
    return Labelled(tuple(batch[:-1]), {}, batch[-1])


def _split(inputs: Any, module: nn.Module, labels: Any) -> Labelled:
    if not isinstance(inputs, Mapping):
        return Labelled(tuple(inputs), {}, labels)
    if set(inputs) <= set(inspect.signature(module.forward).parameters):
        return Labelled((), dict(inputs), labels)
    return Labelled((inputs,), {}, labels)
