"""One request and many candidates. Eager runs the user's model on the request's row repeated for each of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from benchmarks.case import Case, table_gigabytes
from benchmarks.request_model import HalvedDLRM, HeavyUserTower
from benchmarks.zoo_case import zoo_case

_EVEN = (100_000,) * 26
_FEW = (100_000,) * 16
_AMAZON = (192_403, 63_002)


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _din_split(model: Any, candidates: int) -> int:
    """The activation unit's first layer over [q, k, q - k, q * k] is (W1 + W3) q for each candidate, (W2 - W3) k for
    each behaviour, and W4 (q * k) for each pair of candidate and behaviour. The user's share of the head's first layer
    is also saved."""
    first, head = _linears(model.attention)[0], _linears(model.mlp)[0]
    width, behaviours = first.in_features // 4, model.length
    pairs = candidates * behaviours
    attention: int = (4 * pairs - pairs - candidates - behaviours) * width * first.out_features
    users: int = (candidates - 1) * model.users.embedding_dim * head.out_features
    total: int = 2 * (attention + users)
    return total


def _dlrm_split(model: Any, candidates: int) -> int:
    """Dot products of two of the request's vectors, and the top MLP's first layer over them and the bottom MLP's output."""
    vectors, dim, first = 1 + len(model.user_rows), model.dim, _linears(model.dlrm.top)[0]
    columns = dim + vectors * (vectors - 1) // 2
    saved: int = 2 * (candidates - 1) * (vectors * vectors * dim + columns * first.out_features)
    return saved


def _tower_split(model: Any, candidates: int) -> int:
    """The saved operations are the share of the tower's output in the head's first layer."""
    first = _linears(model.head)[0]
    return 2 * (candidates - 1) * _linears(model.tower)[-1].out_features * first.out_features


_DIN: dict[str, Any] = {
    "model": "din",
    "dim": 64,
    "attention": (80, 40),
    "hidden": (200, 80),
    "request": ("user", "history"),
    "split": _din_split,
}

CASES = (
    zoo_case(
        "request-din-100",
        "192k users, 63k items x 64, attention 80-40, top 200-80-1; the user and 100 behaviours belong to the request",
        table_gigabytes(_AMAZON, 64),
        length=100,
        **_DIN,
    ),
    zoo_case(
        "request-din-1000",
        "192k users, 63k items x 64, attention 80-40, top 200-80-1; the user and 1,000 behaviours belong to the request",
        table_gigabytes(_AMAZON, 64),
        length=1000,
        max_batch=500,
        **_DIN,
    ),
    Case(
        "request-dlrm-half",
        "26 tables of 100k x 64, bottom 13-512-256-64, dot, top 415-1024-512-256-1; "
        "dense features and 13 fields belong to the request",
        partial(HalvedDLRM, tables=_EVEN, user_fields=13, dim=64, bottom=(512, 256), top=(1024, 512, 256)),
        table_gigabytes(_EVEN, 64),
        request=("dense", "user"),
        split=_dlrm_split,
    ),
    Case(
        "request-user-tower",
        "16 tables of 100k x 32; the tower over 12 fields, 1024-512-128, is 71 % of the arithmetic and belongs to the request; "
        "head 640-384-1 over it and 4 fields",
        partial(HeavyUserTower, tables=_FEW, user_fields=12, dim=32, tower=(1024, 512, 128), head=(640, 384)),
        table_gigabytes(_FEW, 32),
        request=("user",),
        split=_tower_split,
    ),
    zoo_case(
        "request-two-tower",
        "6k users, 3.7k items x 64, towers 300-300-128; the user and 50 behaviours belong to the request",
        table_gigabytes((6_040, 2 * 3_707), 64),
        model="two-tower",
        length=50,
        dim=64,
        tower=(300, 300, 128),
        request=("user", "history"),
    ),
)
