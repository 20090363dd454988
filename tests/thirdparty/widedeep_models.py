"""pytorch-widedeep: tabular, recommender and text components over one matrix of columns."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, padded_history
from shims import absent
from torch import Tensor, nn

CATEGORIES = (("a", 12), ("b", 20), ("c", 7))
NUMBERS = ("x", "y")
COLUMNS = {name: i for i, name in enumerate([*(name for name, _ in CATEGORIES), *NUMBERS])}
DIM, WORDS, LENGTH, ITEMS = 8, 40, 6, 30
UNUSED = ("cv2", "gensim", "httpcore2", "httpx2", "requests", "sentencepiece", "spacy", "torchvision")


@contextmanager
def _importable() -> Iterator[None]:
    with absent(*UNUSED):
        yield


def _of(name: str, module: str = "models") -> Any:
    with _importable():
        return getattr(importlib.import_module(f"pytorch_widedeep.{module}"), name)


def _columns(batch: int, rng: torch.Generator) -> Tensor:
    """Categories as numbers from 1 on, then numeric features: one float matrix, as from the library's preprocessor."""
    categories = [ids(batch, size + 1, rng, low=1).float() for _, size in CATEGORIES]
    return torch.stack([*categories, *torch.randn(len(NUMBERS), batch, generator=rng)], 1)


def _embedded(dims: bool = True) -> list[Any]:
    return [(name, size, DIM) if dims else (name, size) for name, size in CATEGORIES]


class Logit(nn.Module):
    """A component with a linear layer over its output, as in the library's own wrapper."""

    def __init__(self, component: Any) -> None:
        super().__init__()
        self.component = component
        self.head = nn.Linear(component.output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1]`."""
        found = self.component(x)
        score: Tensor = self.head(found[0] if isinstance(found, tuple) else found)
        return score


def _tabular(batch: int, rng: torch.Generator) -> Inputs:
    return (_columns(batch, rng),), {}


def _sequence(low: int, batch: int, rng: torch.Generator) -> Inputs:
    return (padded_history(batch, LENGTH, WORDS, rng)[0] + low,), {}


def _behaviour(batch: int, rng: torch.Generator) -> Inputs:
    """Columns of DIN: the target, the history, its ratings, one more category."""
    history, _ = padded_history(batch, LENGTH, ITEMS, rng)
    ratings = torch.randint(1, 4, (batch, LENGTH), generator=rng) * (history != 0)
    columns = [ids(batch, ITEMS, rng, low=1).unsqueeze(1), history, ratings, ids(batch, 12, rng, low=1).unsqueeze(1)]
    return (torch.cat(columns, 1).float(),), {}


def _wide(batch: int, rng: torch.Generator) -> Inputs:
    return (torch.stack([ids(batch, 10, rng) + 10 * k + 1 for k in range(4)], 1),), {}


def _together(batch: int, rng: torch.Generator) -> Inputs:
    (wide,), _ = _wide(batch, rng)
    (text,), _ = _sequence(1, batch, rng)
    return ({"wide": wide, "deeptabular": _columns(batch, rng), "deeptext": text},), {}


def _case(name: str, make: Callable[[], nn.Module], inputs: Callable[[int, torch.Generator], Inputs]) -> ModelCase:
    return ModelCase(name, "pytorch-widedeep", "pytorch_widedeep", lambda: BuiltModel(make(), inputs))


def _component(
    name: str, module: str, *, dims: bool, numbers: bool = True, label: str = "", **options: Any
) -> ModelCase:
    def make() -> nn.Module:
        columns = COLUMNS if numbers else {name: i for i, (name, _) in enumerate(CATEGORIES)}
        given = {"continuous_cols": list(NUMBERS)} if numbers else {}
        return Logit(_of(name, module)(column_idx=columns, cat_embed_input=_embedded(dims), **given, **options))

    def inputs(batch: int, rng: torch.Generator) -> Inputs:
        columns = _columns(batch, rng)
        return (columns if numbers else columns[:, : len(CATEGORIES)].contiguous(),), {}

    return _case(label or name, make, inputs)


def _din(activation: str) -> nn.Module:
    names = ["target", *(f"{kind}_{i}" for kind in ("item", "rating") for i in range(LENGTH)), "other"]
    items, ratings = ([n for n in names if n.startswith(f"{kind}_")] for kind in ("item", "rating"))
    return Logit(
        _of("DeepInterestNetwork", "models.rec")(
            column_idx={name: i for i, name in enumerate(names)},
            user_behavior_confiq=(items, ITEMS, DIM),
            target_item_col="target",
            action_seq_config=(ratings, 4),
            cat_embed_input=[("other", 12, 4)],
            attention_unit_activation=activation,
            mlp_hidden_dims=[16, 8],
        )
    )


def _whole() -> nn.Module:
    """All parts in the library's own model."""
    text = _of("BasicRNN")(vocab_size=WORDS + 1, embed_dim=DIM, hidden_dim=8, n_layers=1, padding_idx=1)
    deep = _of("TabMlp")(COLUMNS, cat_embed_input=_embedded(), continuous_cols=list(NUMBERS), mlp_hidden_dims=[16, 8])
    model: nn.Module = _of("WideDeep")(wide=_of("Wide")(41, 1), deeptabular=deep, deeptext=text)
    return model


_attention = partial(_component, module="models", dims=False, input_dim=DIM)
_tab = partial(_component, module="models", dims=True)
_rec = partial(_component, module="models.rec")
_deep = {"mlp_hidden_dims": [16, 8]}

CASES = [
    _case("Wide", lambda: _of("Wide")(41, 1), _wide),
    _tab("TabMlp", **_deep),
    _tab("TabMlp", label="TabMlp-batch-norm", mlp_batchnorm=True, cont_norm_layer="batchnorm", **_deep),
    _tab("TabResnet", blocks_dims=[16, 16, 8]),
    _tab("TabNet", n_steps=2, step_dim=4, attn_dim=4, ghost_bn=False),
    _attention("ContextAttentionMLP", n_blocks=2),
    _attention("SelfAttentionMLP", n_heads=2, n_blocks=2),
    _attention("TabTransformer", n_heads=2, n_blocks=2, embed_continuous_method="standard"),
    _attention("SAINT", n_heads=2, n_blocks=1),
    _attention("FTTransformer", n_heads=2, n_blocks=2),
    _attention("TabFastFormer", n_heads=2, n_blocks=2),
    _attention(
        "TabPerceiver",
        n_latents=4,
        latent_dim=8,
        n_cross_attn_heads=2,
        n_latent_heads=2,
        n_latent_blocks=1,
        n_perceiver_blocks=1,
    ),
    _rec("DeepFactorizationMachine", dims=False, num_factors=DIM, **_deep),
    _rec("DeepFieldAwareFactorizationMachine", dims=False, numbers=False, num_factors=DIM, **_deep),
    _rec("ExtremeDeepFactorizationMachine", dims=False, input_dim=DIM, cin_layer_dims=[8, 8], **_deep),
    _rec("AutoInt", dims=False, input_dim=DIM, num_heads=2, embed_continuous_method="standard"),
    _rec("AutoIntPlus", dims=False, input_dim=DIM, num_heads=2, embed_continuous_method="standard", **_deep),
    _rec("DeepCrossNetwork", dims=True, n_cross_layers=2, **_deep),
    _rec("DeepCrossNetworkV2", dims=True, num_cross_layers=2, low_rank=4, num_experts=2, **_deep),
    _rec("GatedDeepCrossNetwork", dims=True, num_cross_layers=2, **_deep),
    _case("DeepInterestNetwork", partial(_din, "prelu"), _behaviour),
    _case("DeepInterestNetwork-dice", partial(_din, "dice"), _behaviour),
    _case(
        "Transformer",
        lambda: Logit(
            _of("Transformer", "models.rec")(vocab_size=WORDS, seq_length=LENGTH, input_dim=DIM, n_heads=2, n_blocks=1)
        ),
        partial(_sequence, 0),
    ),
    _case("BasicRNN", lambda: Logit(_of("BasicRNN")(WORDS + 1, DIM, hidden_dim=8, n_layers=2)), partial(_sequence, 1)),
    _case(
        "AttentiveRNN",
        lambda: Logit(_of("AttentiveRNN")(WORDS + 1, DIM, rnn_type="gru", hidden_dim=8, n_layers=1)),
        partial(_sequence, 1),
    ),
    _case(
        "StackedAttentiveRNN",
        lambda: Logit(_of("StackedAttentiveRNN")(WORDS + 1, DIM, rnn_type="gru", hidden_dim=8, n_blocks=2)),
        partial(_sequence, 1),
    ),
    _case("WideDeep", _whole, _together),
]
