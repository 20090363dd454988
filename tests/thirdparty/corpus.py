"""Small, randomly initialised models of other libraries, as inputs of capture. Each library has one file that lists its
models as `ModelCase`s. A library is imported only when one of its cases is built, so the list can be read without the
libraries. `requirements-thirdparty.txt` names the packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
InputMaker = Callable[[int, torch.Generator], Inputs]

EXAMPLE_BATCH = 6
COMPARED_BATCHES = (1, 2, 7, 64)
LIBRARY_FILES = (
    *("deepctr_models", "rechub_models", "rechub_generative_models", "recbole_models", "recbole_knowledge_models"),
    *("torchrec_models",),
    *("widedeep_models", "rectools_models", "geometric_models", "transformers_models"),
    *("own_bag_models", "own_sequence_models", "own_interest_models", "own_ctr_models", "own_gated_models"),
    *("own_multitask_models",),
)

#: The library of the models that were written for this suite.
OWN = "own"


@dataclass(frozen=True)
class BuiltModel:
    """A model in eval mode and a function that makes its inputs.

    Attributes:
        model: The model, with weights and statistics from a fixed seed.
        inputs: `(batch, generator) -> (args, kwargs)`, with other values for every generator state.
    """

    model: nn.Module
    inputs: InputMaker

    def example(self) -> Inputs:
        """The example inputs to capture with: a batch of six."""
        return self.inputs(EXAMPLE_BATCH, generator(0))


@dataclass(frozen=True)
class ModelCase:
    """One model of one library.

    Attributes:
        name: The library's name of the model, with the variant if there are several.
        library: The package's name.
        requires: The module that must be installed.
        factory: Makes the model with the library's own initial weights.
    """

    name: str
    library: str
    requires: str
    factory: Callable[[], BuiltModel] = field(repr=False)

    def build(self) -> BuiltModel:
        """Builds the model, with the same weights every time, in eval mode, after `enliven`."""
        with _seeded(2024):
            built = self.factory()
        enliven(built.model)
        return built

    @property
    def label(self) -> str:
        """`library/name`, unique over the corpus."""
        return f"{self.library}/{self.name}"

    @property
    def installed(self) -> bool:
        """Whether the library is installed; does not import it."""
        return importlib.util.find_spec(self.requires) is not None


def own_case(name: str, factory: Callable[[], BuiltModel]) -> ModelCase:
    """A model that was written for this suite and needs torch alone."""
    return ModelCase(name, OWN, "torch", factory)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds all generators from which the libraries draw weights and neighbours; restores them afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def generator(seed: int) -> torch.Generator:
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives a newly built model weights with distinguishable outputs, and puts it in eval mode. The libraries start
    from weights of 1e-4, zero biases and BatchNorm statistics of 0 and 1, so that every output is about 0.5 and a wrong
    graph is not noticed. Floating-point parameters that are constant or tiny are drawn again, BatchNorm statistics are
    drawn, and the padding rows of embeddings stay as they were.

    Args:
        model: The model to change in place.
        seed: Seed of the values.

    Returns:
        The same model in eval mode.
    """
    rng = generator(seed)
    padding = {
        id(m.weight): m.padding_idx
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m.padding_idx is not None
    }
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and _is_dull(parameter):
                kept = padding.get(id(parameter))
                row = None if kept is None else parameter[kept].clone()
                noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
                parameter.add_(noise * 0.2)
                if row is not None:
                    parameter[kept] = row
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=rng) * 0.3)
                assert module.running_var is not None
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)
    return model.eval()


def _is_dull(values: Tensor) -> bool:
    """Whether a parameter is constant, or so small that it hardly affects outputs."""
    spread = values.std() if values.numel() > 1 else torch.zeros(())
    return bool(spread < 0.02)


def ids(batch: int, size: int, rng: torch.Generator, *, low: int = 0) -> Tensor:
    """`[batch]` int64 ids in `[low, size)`."""
    return torch.randint(low, size, (batch,), generator=rng)


def padded_history(batch: int, length: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`[batch, length]` ids in `[1, size)`, then zeros after a random length of at least 1; and the lengths `[batch]`."""
    lengths = torch.randint(1, length + 1, (batch,), generator=rng)
    values = torch.randint(1, size, (batch, length), generator=rng)
    keep = torch.arange(length).unsqueeze(0) < lengths.unsqueeze(1)
    return values * keep, lengths


def all_cases() -> list[ModelCase]:
    """Every case of every library, in the order of `LIBRARY_FILES`; labels are unique."""
    cases: list[ModelCase] = []
    for file in LIBRARY_FILES:
        listed: Iterable[ModelCase] = importlib.import_module(file).CASES
        cases.extend(listed)
    labels = [case.label for case in cases]
    repeated = {label for label in labels if labels.count(label) > 1}
    if repeated:
        raise ValueError(f"labels used twice in the corpus: {sorted(repeated)}")
    return cases
