"""transformers: encoders over a session of items, as sequential recommenders use them."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase
from shims import absent
from torch import Tensor, nn

ITEMS, DIM, HEADS, LAYERS, LENGTH = 60, 16, 2, 2, 8


class Session(nn.Module):
    """An encoder and the scores of all items: by the last position, or by the mean over items.

    Args:
        encoder: A model of the library.
        table: Its table of items.
        pooled: "last" or "mean".
        masked: Whether the encoder receives the mask of padding.
    """

    def __init__(self, encoder: nn.Module, table: nn.Embedding, pooled: str, masked: bool) -> None:
        super().__init__()
        self.encoder, self.pooled, self.masked = encoder, pooled, masked
        self.table = table
        self.head = nn.Linear(table.embedding_dim, DIM)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Scores `[batch, ITEMS]`."""
        found = self.encoder(input_ids=items, attention_mask=mask) if self.masked else self.encoder(input_ids=items)
        states = found.last_hidden_state
        if self.pooled == "last":
            vector = states[:, -1]
        else:
            held = mask.unsqueeze(-1).to(states.dtype)
            vector = (states * held).sum(1) / held.sum(1).clamp(min=1e-9)
        return self.head(vector) @ self.head(self.table.weight).T


def _of(module: str, *names: str) -> list[Any]:
    with absent("httpx2", "httpcore2", "sentencepiece"):
        found = importlib.import_module(f"transformers.models.{module}")
        return [
            getattr(importlib.import_module(f"{found.__name__}.{file}"), name) for file, name in _files(module, names)
        ]


def _files(module: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    config, model = names
    return [(f"configuration_{module}", config), (f"modeling_{module}", model)]


_COMMON = {
    "vocab_size": ITEMS,
    "hidden_size": DIM,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * DIM,
    "max_position_embeddings": LENGTH + 8,
    "pad_token_id": 0,
    "use_cache": False,
}


def _build(module: str, name: str, pooled: str, masked: bool, settings: dict[str, Any]) -> BuiltModel:
    config, model = _of(module, f"{name}Config", settings.pop("model", f"{name}Model"))
    encoder = model(config(**settings)).eval()
    return BuiltModel(Session(encoder, encoder.get_input_embeddings(), pooled, masked), _inputs)


def _inputs(batch: int, rng: torch.Generator) -> Inputs:
    """Sessions padded on the right, and the mask of their items."""
    lengths = torch.randint(1, LENGTH + 1, (batch, 1), generator=rng)
    mask = (torch.arange(LENGTH) < lengths).long()
    items = torch.randint(4, ITEMS, (batch, LENGTH), generator=rng) * mask
    return (items, mask), {}


def _case(
    module: str, name: str, pooled: str = "mean", masked: bool = True, common: bool = True, **settings: Any
) -> ModelCase:
    given = (_COMMON if common else {}) | settings
    return ModelCase(name, "transformers", "transformers", lambda: _build(module, name, pooled, masked, dict(given)))


CASES = [
    _case("bert", "Bert"),
    _case("roberta", "Roberta"),
    _case("electra", "Electra", embedding_size=DIM),
    _case("albert", "Albert", embedding_size=DIM),
    _case(
        *("distilbert", "DistilBert"),
        common=False,
        vocab_size=ITEMS,
        dim=DIM,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=2 * DIM,
        max_position_embeddings=LENGTH,
    ),
    _case("mpnet", "MPNet"),
    _case("roformer", "RoFormer", embedding_size=DIM),
    _case("deberta_v2", "DebertaV2", position_buckets=4, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _case("fnet", "FNet", masked=False, tpu_short_seq_length=LENGTH),
    _case("modernbert", "ModernBert", attn_implementation="sdpa", global_attn_every_n_layers=2, local_attention=4),
    _case(
        *("gpt2", "GPT2", "last"),
        common=False,
        vocab_size=ITEMS,
        n_embd=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=LENGTH,
        use_cache=False,
    ),
    _case("llama", "Llama", "last", num_key_value_heads=1),
    _case("qwen3", "Qwen3", "last", num_key_value_heads=1, head_dim=8),
    _case("mistral", "Mistral", "last", num_key_value_heads=1, sliding_window=4),
    _case(
        *("t5", "T5"),
        common=False,
        model="T5EncoderModel",
        vocab_size=ITEMS,
        d_model=DIM,
        d_kv=8,
        d_ff=2 * DIM,
        num_layers=LAYERS,
        num_heads=HEADS,
    ),
    _case(
        *("xlnet", "XLNet"), common=False, vocab_size=ITEMS, d_model=DIM, n_layer=LAYERS, n_head=HEADS, d_inner=2 * DIM
    ),
    _case("ernie", "Ernie"),
    _case("convbert", "ConvBert", embedding_size=DIM, conv_kernel_size=3, head_ratio=2),
    _case(
        "squeezebert",
        "SqueezeBert",
        embedding_size=DIM,
        q_groups=2,
        k_groups=2,
        v_groups=2,
        intermediate_groups=2,
        output_groups=2,
    ),
    _case("mobilebert", "MobileBert", embedding_size=DIM, intra_bottleneck_size=8, num_feedforward_networks=2),
    _case("nomic_bert", "NomicBert"),
    _case("nystromformer", "Nystromformer", num_landmarks=LENGTH, segment_means_seq_len=LENGTH),
    _case("big_bird", "BigBird", attention_type="original_full"),
    _case(
        "funnel",
        "Funnel",
        common=False,
        vocab_size=ITEMS,
        d_model=DIM,
        d_head=8,
        n_head=HEADS,
        d_inner=2 * DIM,
        block_sizes=[1, 1],
        num_decoder_layers=1,
    ),
    _case("gpt_neox", "GPTNeoX", "last"),
    _case("opt", "OPT", "last", ffn_dim=2 * DIM, word_embed_proj_dim=DIM),
    _case("phi", "Phi", "last"),
    _case("gemma", "Gemma", "last", num_key_value_heads=1, head_dim=8),
    _case("gemma2", "Gemma2", "last", num_key_value_heads=1, head_dim=8, sliding_window=4),
    _case("falcon", "Falcon", "last"),
    _case(
        "bloom",
        "Bloom",
        "last",
        common=False,
        vocab_size=ITEMS,
        hidden_size=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        use_cache=False,
    ),
    _case(
        "mamba",
        "Mamba",
        "last",
        common=False,
        vocab_size=ITEMS,
        hidden_size=DIM,
        num_hidden_layers=LAYERS,
        state_size=4,
        use_cache=False,
    ),
    _case("mixtral", "Mixtral", "last", num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1),
]
