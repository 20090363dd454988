"""torch-rechub: generative models, which give the next item of a sequence, or the codes of an item."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, padded_history
from rechub_models import ITEMS, LENGTH
from shims import absent
from torch import Tensor, nn

DIM, CODES = 16, 24


def _of(name: str) -> Any:
    with absent("httpx2", "httpcore2", "sentencepiece"):
        return getattr(importlib.import_module("torch_rechub.models.generative"), name)


def _timed(batch: int, rng: torch.Generator) -> Inputs:
    """Sequences of items, and the seconds between them."""
    items, _ = padded_history(batch, LENGTH, ITEMS, rng)
    return (items,), {"time_diffs": torch.randint(0, 100_000, items.shape, generator=rng)}


def _hstu() -> nn.Module:
    model: nn.Module = _of("HSTUModel")(ITEMS, d_model=DIM, n_heads=2, n_layers=2, dqk=8, dv=8, max_seq_len=LENGTH)
    return model


def _hllm() -> nn.Module:
    texts = torch.randn(ITEMS, DIM)
    model: nn.Module = _of("HLLMModel")(texts, ITEMS, d_model=DIM, n_heads=2, n_layers=2, max_seq_len=LENGTH)
    return model


class NextCode(nn.Module):
    """TIGER's scores of the next code of an item, after the codes of a session and the first codes of that item."""

    def __init__(self) -> None:
        super().__init__()
        model = _of("TIGERModel")
        config = importlib.import_module("transformers.models.t5.configuration_t5").T5Config
        sizes = {"d_model": DIM, "d_kv": 8, "d_ff": 2 * DIM, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
        self.model = model(config(vocab_size=CODES, decoder_start_token_id=0, use_cache=False, **sizes))

    def forward(self, codes: Tensor, mask: Tensor, prefix: Tensor) -> Tensor:
        """Scores `[batch, prefix, codes]`."""
        given = {"input_ids": codes, "attention_mask": mask, "decoder_input_ids": prefix, "return_dict": True}
        scores: Tensor = self.model(**given).logits
        return scores


def _codes(batch: int, rng: torch.Generator) -> Inputs:
    codes, lengths = padded_history(batch, LENGTH, CODES, rng)
    mask = (torch.arange(LENGTH) < lengths.unsqueeze(1)).long()
    prefix = torch.randint(1, CODES, (batch, 3), generator=rng)
    prefix[:, 0] = 0
    return (codes, mask, prefix), {}


class Codes(nn.Module):
    """The codes that RQ-VAE gives items, and what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _of("RQVAEModel")(
            in_dim=DIM, num_emb_list=[8, 8], e_dim=8, layers=[16], kmeans_init=False, sk_epsilons=[0.0, 0.0]
        )

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction `[batch, 16]` and the codes `[batch, 2]` of features `[batch, 16]`."""
        found, _, codes = self.model(items, use_sk=False)
        return found, codes


def _features(batch: int, rng: torch.Generator) -> Inputs:
    return (torch.randn(batch, DIM, generator=rng),), {}


def _case(name: str, make: Callable[[], nn.Module], inputs: Callable[[int, torch.Generator], Inputs]) -> ModelCase:
    return ModelCase(name, "torch-rechub", "torch_rechub", lambda: BuiltModel(make(), inputs))


CASES = [
    _case("HSTU", _hstu, _timed),
    _case("HLLM", _hllm, _timed),
    _case("TIGER", NextCode, _codes),
    _case("RQVAE", Codes, _features),
]
