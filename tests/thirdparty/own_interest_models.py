"""Models written for this suite: models of a candidate and a history, and two towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from corpus import BuiltModel, Inputs, ModelCase, ids, own_case, padded_history
from torch import Tensor, nn

ITEMS, USERS, DIM, LENGTH = 50, 30, 8, 12


def mask_of(lengths: Tensor, length: int = LENGTH) -> Tensor:
    """`[batch, length]`, true before each length."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)


class Interest(nn.Module):
    """A pooled history, the user and the candidate, followed by an MLP.

    Args:
        pool: `(candidate, history, lengths) -> [batch, width]`.
        width: The pooled width.
    """

    def __init__(self, pool: nn.Module, width: int = DIM) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, DIM)
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.pool = pool
        self.head = nn.Sequential(nn.Linear(2 * DIM + width, 16), nn.PReLU(), nn.Linear(16, 1))

    def forward(self, user: Tensor, item: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities `[batch]`."""
        candidate = self.items(item)
        pooled = self.pool(candidate, self.items(history), lengths)
        return torch.sigmoid(self.head(torch.cat([self.users(user), candidate, pooled], 1))).squeeze(-1)


class TargetUnit(nn.Module):
    """DIN's unit over candidate, item, difference and product; softmaxed over the length, or a plain weighted sum."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.softmax = softmax
        self.unit = nn.Sequential(nn.Linear(4 * DIM, 16), nn.Sigmoid(), nn.Linear(16, 1))

    def scores(self, candidate: Tensor, history: Tensor) -> Tensor:
        """`[batch, length]`."""
        target = candidate.unsqueeze(1).expand_as(history)
        found: Tensor = self.unit(torch.cat([target, history, target - history, target * history], -1)).squeeze(-1)
        return found

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        mask = mask_of(lengths)
        weights = self.scores(candidate, history)
        weights = torch.where(mask, weights / DIM**0.5, -(2.0**31)).softmax(-1) if self.softmax else weights * mask
        return torch.bmm(weights.unsqueeze(1), history).squeeze(1)


class Evolution(nn.Module):
    """DIEN over the padded history: a GRU of interests, then a GRU whose update gate is scaled by attention, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = nn.GRU(DIM, DIM, batch_first=True)
        self.attend = TargetUnit(softmax=False)
        self.gates, self.new = nn.Linear(2 * DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        interests, _ = self.extract(history)
        weights = self.attend.scores(candidate, interests).masked_fill(~mask_of(lengths), -1e4).softmax(-1)
        state = torch.zeros_like(candidate)
        for step in range(LENGTH):
            x = interests[:, step]
            reset, update = torch.sigmoid(self.gates(torch.cat([x, state], 1))).chunk(2, 1)
            update = update * weights[:, step : step + 1]
            proposed = torch.tanh(self.new(torch.cat([x, reset * state], 1)))
            state = (1 - update) * state + update * proposed
        return state


class MeanOfLengths(nn.Module):
    """YouTube's mean over the true length; `safe` keeps empty histories at zero."""

    def __init__(self, safe: str) -> None:
        super().__init__()
        self.safe = safe

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        total = (history * mask_of(lengths).unsqueeze(-1)).sum(1)
        if self.safe == "clamp":
            return total / lengths.clamp(min=1).unsqueeze(1)
        return total / (lengths.unsqueeze(1).float() + 1e-8)


class TopHistory(nn.Module):
    """SIM and TWIN: attention over the most similar items of a long history by inner product."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        scores = torch.einsum("bd,bld->bl", self.q(candidate), self.k(history)) / DIM**0.5
        scores = scores.masked_fill(~mask_of(lengths), -1e9)
        if not self.hard:
            return torch.einsum("bl,bld->bd", scores.softmax(1), self.v(history))
        best, places = scores.topk(4, dim=1)
        picked = history.gather(1, places.unsqueeze(-1).expand(-1, -1, DIM))
        return (best.softmax(1).unsqueeze(-1) * self.v(picked)).sum(1)


class Capsules(nn.Module):
    """MIND: capsules routed from fixed initial weights, and label-aware attention by the candidate."""

    def __init__(self, count: int = 3, rounds: int = 3) -> None:
        super().__init__()
        self.rounds = rounds
        self.bilinear = nn.Parameter(torch.randn(DIM, DIM) * 0.3)
        self.register_buffer("start", torch.randn(count, LENGTH, generator=torch.Generator().manual_seed(5)))

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        mask = mask_of(lengths).unsqueeze(1)
        mapped = history @ self.bilinear
        routing = self.start.unsqueeze(0).repeat(history.shape[0], 1, 1)
        for _ in range(self.rounds):
            weights = routing.masked_fill(~mask, -1e9).softmax(1) * mask
            raw = torch.matmul(weights, mapped)
            square = raw.pow(2).sum(-1, keepdim=True)
            capsules = square / (1 + square) * raw / (square + 1e-9).sqrt()
            routing = routing + torch.matmul(capsules, mapped.transpose(1, 2))
        weights = torch.matmul(capsules, candidate.unsqueeze(-1)).squeeze(-1).pow(2).softmax(-1)
        return (weights.unsqueeze(-1) * capsules).sum(1)


class BehaviourTransformer(nn.Module):
    """BST: the candidate appended to the history, a transformer layer, everything flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, LENGTH + 1, DIM) * 0.1)
        self.layer = nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True)

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        whole = torch.cat([history, candidate.unsqueeze(1)], 1) + self.positions
        padding = F.pad(~mask_of(lengths), (0, 1), value=False)
        encoded: Tensor = self.layer(whole, src_key_padding_mask=padding)
        return encoded.masked_fill(padding.unsqueeze(-1), 0.0).flatten(1)


class LastItems(nn.Module):
    """STAMP: the mean of the history, its last item by length, and attention from both."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.last, self.mean = (nn.Linear(DIM, DIM, bias=i == 0) for i in range(3))
        self.score = nn.Linear(DIM, 1, bias=False)

    def forward(self, candidate: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """As `Interest.pool`."""
        rows = torch.arange(history.shape[0], device=history.device)
        last = history[rows, (lengths - 1).clamp(min=0)]
        mean = history.sum(1) / lengths.clamp(min=1).unsqueeze(1)
        weights = self.score(
            torch.sigmoid(self.item(history) + self.last(last).unsqueeze(1) + self.mean(mean).unsqueeze(1))
        )
        return (weights * history).sum(1) * last


class TwoTower(nn.Module):
    """Towers with unit vectors and a temperature; `learned` keeps its logarithm as a parameter, as CLIP does."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
        self.user = nn.Sequential(nn.Linear(2 * DIM, 16), nn.ReLU(), nn.Linear(16, DIM))
        self.item = nn.Sequential(nn.Linear(DIM, 16), nn.ReLU(), nn.Linear(16, DIM))
        self.scale = nn.Parameter(torch.tensor(2.6)) if learned else None

    def forward(self, user: Tensor, item: Tensor, history: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[batch]` and both vectors `[batch, DIM]`."""
        seen = self.items(history).masked_fill(~mask_of(lengths).unsqueeze(-1), 0.0).sum(1)
        left = F.normalize(self.user(torch.cat([self.users(user), seen], 1)), dim=-1)
        right = F.normalize(self.item(self.items(item)), p=2, dim=1)
        scale = 1 / 0.07 if self.scale is None else self.scale.exp().clamp(max=100)
        return (left * right).sum(-1) * scale, left, right


class MultiInterest(nn.Module):
    """ComiRec with self-attention: several vectors per user; the nearest vector scores the candidate."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.first, self.second = nn.Linear(DIM, 16), nn.Linear(16, count)

    def forward(self, item: Tensor, history: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The best score `[batch]` and the index of its interest."""
        held = self.items(history)
        weights = self.second(torch.tanh(self.first(held))).transpose(1, 2)
        weights = weights.masked_fill(~mask_of(lengths).unsqueeze(1), -1e9).softmax(-1)
        scores = torch.einsum("bkl,bld,bd->bk", weights, held, self.items(item))
        return scores.max(dim=1).values, scores.argmax(dim=1)


def _inputs(empty: bool, batch: int, rng: torch.Generator) -> Inputs:
    history, lengths = padded_history(batch, LENGTH, ITEMS, rng)
    if empty and batch > 2:
        history, lengths = history.clone(), lengths.clone()
        history[1], lengths[1] = 0, 0
    return (ids(batch, USERS, rng), ids(batch, ITEMS, rng, low=1), history, lengths), {}


def _without_user(batch: int, rng: torch.Generator) -> Inputs:
    (_, *rest), _ = _inputs(False, batch, rng)
    return tuple(rest), {}


def _interest(name: str, pool: Callable[[], nn.Module], width: int = DIM, empty: bool = True) -> ModelCase:
    return own_case(name, lambda: BuiltModel(Interest(pool(), width), partial(_inputs, empty)))


CASES = [
    _interest("DIN-softmax", partial(TargetUnit, True)),
    _interest("DIN-sum", partial(TargetUnit, False)),
    _interest("DIEN-by-steps", Evolution),
    _interest("YouTubeDNN-clamp", partial(MeanOfLengths, "clamp")),
    _interest("YouTubeDNN-epsilon", partial(MeanOfLengths, "epsilon"), empty=False),
    _interest("SIM-top-history", partial(TopHistory, True)),
    _interest("TWIN-soft", partial(TopHistory, False)),
    _interest("MIND-fixed-start", Capsules),
    _interest("BST", BehaviourTransformer, (LENGTH + 1) * DIM),
    _interest("STAMP", LastItems),
    own_case("two-tower", lambda: BuiltModel(TwoTower(False), partial(_inputs, True))),
    own_case("two-tower-learned-temperature", lambda: BuiltModel(TwoTower(True), partial(_inputs, True))),
    own_case("ComiRec-nearest", lambda: BuiltModel(MultiInterest(), _without_user)),
]
