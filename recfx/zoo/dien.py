"""DIEN: Zhou et al. 2019, "Deep Interest Evolution Network for Click-Through Rate Prediction"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings, masked_softmax


class AUGRU(nn.Module):
    """GRU whose update gate is scaled by attention (equations 2 to 5 and 14 to 16).

    r = sigmoid(W_r i + U_r h + b_r), u = a sigmoid(W_u i + U_u h + b_u), c = tanh(W_c i + r * (U_c h) + b_c),
    h' = (1 - u) * h + u * c. An attention of 0 does not change the state, so padding needs no further mask.

    Args:
        inputs: Width of the inputs.
        width: Width of the state.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(inputs, 3 * width)  # reset, update, candidate
        self.state = nn.Linear(width, 3 * width, bias=False)

    def step(self, projected: Tensor, attention: Tensor, state: Tensor) -> Tensor:
        """One step: `self.input` of an input [B, 3 width], attention [B, 1], state [B, width] -> state."""
        reset_i, update_i, candidate_i = projected.chunk(3, dim=1)
        reset_h, update_h, candidate_h = self.state(state).chunk(3, dim=1)
        reset = torch.sigmoid(reset_i + reset_h)
        update = attention * torch.sigmoid(update_i + update_h)
        candidate = torch.tanh(candidate_i + reset * candidate_h)
        return (1 - update) * state + update * candidate

    def forward(self, inputs: Tensor, attention: Tensor) -> Tensor:
        """[B, L, inputs] and [B, L] -> the last state, [B, width], from a state of zeros."""
        projected = self.input(inputs)
        state = inputs.new_zeros(inputs.shape[0], self.width)
        for place in range(inputs.shape[1]):
            state = self.step(projected[:, place], attention[:, place, None], state)
        return state


class DIEN(HistoryModel):
    """Interests by a GRU, their evolution towards the item by AUGRU, an MLP; returns logits [B].

    Inputs: `user` int64 [B] in [0, num_users); `item` int64 [B] in [1, num_items]; `history` int64 [B, length] of
    item ids, oldest first, padded with zeros on the right. Both recurrences run over the fixed length: the GRU's
    states at the items do not depend on the padding after them, and AUGRU skips it. The default sizes are
    those of the paper's Amazon electronics.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history.
        dim: Columns of the tables; 18 in the authors' code.
        categories: The items' categories, see `ItemEmbeddings`.
        state: Width of both recurrent states; 36 in the authors' code.
        hidden: Hidden widths of the MLP; 200-80 in the paper.
        activation: Its activation.
    """

    def __init__(
        self,
        num_users: int = 192_403,
        num_items: int = 63_001,
        length: int = 50,
        *,
        dim: int = 18,
        categories: Tensor | int = 801,
        state: int = 36,
        hidden: Sequence[int] = (200, 80),
        activation: str = "dice",
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.items = ItemEmbeddings(num_items, dim, categories)
        width = self.items.out_features
        self.users = nn.Embedding(num_users, dim)
        nn.init.normal_(self.users.weight, std=0.01)
        self.extractor = nn.GRU(width, state, batch_first=True)
        self.relevance = nn.Linear(width, state, bias=False)
        self.evolution = AUGRU(state, state)
        self.mlp = MLP(dim + width + state, hidden, 1, activation=activation)
        self.next_item = MLP(state + width, [100, 50], 1, activation="sigmoid")  # only for the auxiliary loss

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, histories of five; see `ZooModel.small`."""
        sizes = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "state": 6, "hidden": (8, 4), **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B]."""
        target = self.items(item)
        interests, _ = self.extractor(self.items(history))
        scores = torch.bmm(interests, self.relevance(target)[:, :, None]).squeeze(2)  # equation 12
        evolved = self.evolution(interests, masked_softmax(scores, history != 0))
        logits: Tensor = self.mlp(torch.cat([self.users(user), target, evolved], dim=1)).squeeze(1)
        return logits

    def auxiliary_loss(self, history: Tensor, negatives: Tensor) -> Tensor:
        """The loss of classifying the next item against a negative item from each interest (equation 7); add it in training.

        Args:
            history: int64 [B, L], as for `forward`.
            negatives: int64 [B, L], a negative item for each place; place 0 is not used.

        Returns:
            The mean over the items that have a predecessor, a scalar; 0 without such items.
        """
        vectors = self.items(history)
        interests, _ = self.extractor(vectors)
        taken = (history[:, 1:] != 0).to(interests.dtype)
        before = interests[:, :-1]
        clicked = self.next_item(torch.cat([before, vectors[:, 1:]], dim=2)).squeeze(2)
        skipped = self.next_item(torch.cat([before, self.items(negatives[:, 1:])], dim=2)).squeeze(2)
        loss = F.softplus(-clicked) + F.softplus(skipped)
        return (loss * taken).sum() / taken.sum().clamp(min=1)
