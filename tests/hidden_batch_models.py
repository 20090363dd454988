"""Models that hide the batch from a tracer, in forms that are common in the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(50, 8), nn.Embedding(50, 8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.rnn, self.rnn_second = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8)


class BatchSizeInFeed(Base):
    """A feed dictionary that contains its batch size, as in ReChorus."""

    def forward(self, feed):
        rows = feed["batch_size"]
        history = self.items(feed["history"]).sum(1).view(rows, -1)
        user = self.users(feed["user_id"]) + history
        scores = (user[:, None] * self.items(feed["item_id"])).sum(-1)
        return {"prediction": scores.view(rows, -1)}


class BatchSizeArgument(Base):
    def forward(self, history, batch_size):
        return self.items(history).reshape(batch_size, -1).sum(1)


class FlattenedIds(Base):
    """Candidates side by side in one vector."""

    def forward(self, user, ids):
        return (self.items(ids).view(user.shape[0], -1, 8) * self.users(user)[:, None]).sum(-1)


class StateInput(Base):
    """The state of a recurrent layer, [layers, batch, width]."""

    def forward(self, history, state):
        return self.rnn(self.items(history), state)[0][:, -1]


class StateFirst(Base):
    def forward(self, state, history):
        return self.rnn(self.items(history), state)[0][:, -1]


class BatchSecond(Base):
    def forward(self, user, sequence):
        states, _ = self.rnn_second(self.items(sequence))
        return (states[-1] * self.users(user)).sum(-1)


class HeadsInBatch(Base):
    """Heads folded into the batch, as in the published SASRec and its descendants."""

    def forward(self, history):
        x, heads = self.items(history), 2
        q = torch.cat(self.query(x).chunk(heads, 2), 0)
        k = torch.cat(self.key(x).chunk(heads, 2), 0)
        mixed = torch.softmax(q @ k.transpose(1, 2) / 2.0, -1) @ k
        return torch.cat(mixed.chunk(heads, 0), 2).mean(1)


class HeadsSecond(HeadsInBatch):
    """The heads are split along another dimension than the first, which a position or a keyword names."""

    def forward(self, history):
        x = self.items(history)
        q = torch.cat(self.query(x).chunk(2, 2), 0)
        mixed = (torch.softmax(q @ q.transpose(1, 2), -1) @ q).transpose(0, 1)
        summed = torch.cat(mixed.chunk(2, 1), 2) + torch.cat(torch.chunk(mixed * 2, chunks=2, dim=1), 2)
        return summed.mean(0)


class HeadsSplit(HeadsInBatch):
    def forward(self, history):
        x = self.items(history)
        q = torch.cat(torch.split(self.query(x), 4, 2), 0)
        mixed = torch.softmax(q @ q.transpose(1, 2), -1) @ q
        return torch.cat(torch.split(mixed, len(history), 0), 2).mean(1)


class TokenList(Base):
    def forward(self, history):
        token = torch.LongTensor([7] * history.shape[0])
        return (self.items(token) * self.items(history).sum(1)).sum(-1)


class TokenTensor(Base):
    def forward(self, history):
        first = torch.tensor([[3]] * len(history))
        return self.items(torch.cat([first, history], 1)).sum(1)


class Tiled(Base):
    def forward(self, history):
        places = torch.from_numpy(np.tile(np.arange(history.shape[1]), [history.shape[0], 1]))
        return (self.users(places) * self.items(history)).sum((1, 2))


class ZerosOfLength(Base):
    def forward(self, history):
        return torch.zeros(len(history), 8) + self.items(history).mean(1)


class ListOfZeros(Base):
    def forward(self, history):
        return self.items(torch.tensor([0] * history.size(0))) + self.items(history).mean(1)


class RangeList(Base):
    """Selects the last item of every history by a Python range over the rows."""

    def forward(self, history):
        rows = torch.tensor(list(range(len(history))))
        return self.items(history)[rows, (history > 0).sum(1) - 1]


class SizeInMean(Base):
    def forward(self, history):
        rows = int(torch.tensor([1] * len(history)).shape[0])
        return self.items(history).mean(1) / float(rows) + torch.tensor(float(rows)) * self.items(history)[:, 0]


def ids(*sizes: int) -> torch.Tensor:
    return torch.randint(1, 50, sizes)


def feed(rows: int) -> dict[str, Any]:
    return {"user_id": ids(rows), "item_id": ids(rows, 4), "history": ids(rows, 5), "batch_size": rows}


Make = Callable[[int], tuple[Any, ...]]


MODELS: dict[str, tuple[type[nn.Module], Make]] = {
    "feed['batch_size']": (BatchSizeInFeed, lambda rows: (feed(rows),)),
    "batch_size argument": (BatchSizeArgument, lambda rows: (ids(rows, 5), rows)),
    "flattened ids": (FlattenedIds, lambda rows: (ids(rows), ids(rows * 61))),
    "state": (StateInput, lambda rows: (ids(rows, 5), torch.randn(1, rows, 8))),
    "state first": (StateFirst, lambda rows: (torch.randn(1, rows, 8), ids(rows, 5))),
    "batch second": (BatchSecond, lambda rows: (ids(rows), ids(5, rows))),
    "heads in the batch": (HeadsInBatch, lambda rows: (ids(rows, 5),)),
    "heads in dimension 1": (HeadsSecond, lambda rows: (ids(rows, 5),)),
    "heads by split": (HeadsSplit, lambda rows: (ids(rows, 5),)),
    "[token] * rows": (TokenList, lambda rows: (ids(rows, 5),)),
    "[[token]] * rows": (TokenTensor, lambda rows: (ids(rows, 5),)),
    "np.tile": (Tiled, lambda rows: (ids(rows, 5),)),
    "zeros(len)": (ZerosOfLength, lambda rows: (ids(rows, 5),)),
    "[0] * rows": (ListOfZeros, lambda rows: (ids(rows, 5),)),
    "list(range(rows))": (RangeList, lambda rows: (ids(rows, 5),)),
    "float(rows)": (SizeInMean, lambda rows: (ids(rows, 5),)),
}
