"""Trains LightGCN on Gowalla with the native kernels: python -m benchmarks.lightgcn --data DIR --out embeddings.safetensors

Prints one JSON line an evaluation: epochs (one has a sample for each interaction), the mean loss, Recall and NDCG,
seconds of training and of evaluation, milliseconds of each part of a step. Continues from `--state FILE`, bit for bit,
if the file exists.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recfx.data import BprSampler, Interactions, evaluate_embeddings, load_interactions
from recfx.learn.penalty import row_penalty
from recfx.learn.propagation import accelerate_propagation
from recfx.ops.ranking import bpr_loss
from recfx.zoo import LightGCN

_AVERAGED_EVERY = 5  # steps between two averages; averaging at every step costs as much as Adam


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lightgcn", description=__doc__)
    add = parser.add_argument
    add("--data", required=True, help="folder of the data set")
    add("--epochs", type=float, default=100)
    add("--every", type=float, default=10, help="epochs between evaluations")
    add("--batch", type=int, default=2048)
    add("--lr", type=float, default=1e-3)
    add("--cosine", action="store_true", help="let the learning rate fall to zero as half a cosine")
    add("--l2", type=float, default=1e-4)
    add("--negatives", type=int, default=1)
    add("--joint", action="store_true", help="one softmax over the negatives of a sample")
    add("--average", type=float, default=0.0, help="evaluate and keep the moving average of the tables with this decay")
    add("--dim", type=int, default=64)
    add("--layers", type=int, default=3)
    add("--halved", action="store_true", help="bfloat16 between layers")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--state", type=Path, help="checkpoint to write at every evaluation, and to continue from")
    add("--out", type=Path, help="safetensors file for the final embeddings, `users` and `items`")
    return parser.parse_args()


class Training:
    """One run.

    Args:
        options: The parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.data: Interactions = load_interactions(options.data)
        self.model = LightGCN.for_interactions(
            self.data.n_users, self.data.n_items, *self.data.train_pairs(), dim=options.dim, layers=options.layers
        )
        accelerate_propagation(self.model, options.halved)
        self.sampler = BprSampler(self.data, options.negatives, options.seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr, fused=True)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.step, self.seconds, self.loss, self.losses = 0, 0.0, 0.0, 0
        self.parts: defaultdict[str, float] = defaultdict(float)
        self.total = math.ceil(options.epochs * self.sampler.samples / options.batch)

    def run(self) -> None:
        """Trains to the end."""
        if self.options.state and self.options.state.exists():
            self.load()
        between = max(round(self.options.every * self.sampler.samples / self.options.batch), 1)
        while self.step < self.total:
            begun = time.perf_counter()
            self.one_step()
            self.seconds += time.perf_counter() - begun
            if self.step % between == 0 or self.step == self.total:
                self.report()

    def one_step(self) -> None:
        """Samples a batch and takes a step."""
        batch, model = self.options.batch, self.model
        marks = [time.perf_counter()]
        users, positives, negatives = self.sampler.sample(batch)
        marks.append(time.perf_counter())
        loss = bpr_loss(*model.embeddings(), users, positives, negatives, self.options.joint)
        marks.append(time.perf_counter())
        used = torch.bincount(positives, minlength=model.num_items).double()
        used += torch.bincount(negatives.flatten(), minlength=model.num_items) / self.options.negatives
        penalty = row_penalty(model.users.weight, torch.bincount(users, minlength=model.num_users))
        penalty = penalty + row_penalty(model.items.weight, used)
        self.optimizer.zero_grad()
        (loss + self.options.l2 / batch * penalty).backward()
        marks.append(time.perf_counter())
        if self.options.cosine:
            self.optimizer.param_groups[0]["lr"] = (
                self.options.lr * (1 + math.cos(math.pi * self.step / self.total)) / 2
            )
        self.optimizer.step()
        self.step += 1
        if self.step % _AVERAGED_EVERY == 0:
            for mean, parameter in zip(self.average, model.parameters(), strict=True):
                mean.lerp_(parameter.detach(), 1 - self.options.average)
        marks.append(time.perf_counter())
        self.loss += float(loss.detach())
        self.losses += 1
        for name, first, last in zip(("sample", "forward", "backward", "update"), marks, marks[1:], strict=False):
            self.parts[name] += last - first

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The final embeddings of the averaged tables."""
        held = [p.detach().clone() for p in self.model.parameters()]
        with torch.no_grad():
            for parameter, mean in zip(self.model.parameters(), self.average, strict=True):
                parameter.copy_(mean)
            users, items = self.model.embeddings()
            for parameter, own in zip(self.model.parameters(), held, strict=True):
                parameter.copy_(own)
        return users, items

    def report(self) -> None:
        """Evaluates, prints, and saves."""
        begun = time.perf_counter()
        users, items = self.embeddings()
        figures = evaluate_embeddings(users, items, self.data)
        line: dict[str, Any] = {
            "epoch": round(self.step * self.options.batch / self.sampler.samples, 2),
            "step": self.step,
            "loss": round(self.loss / max(self.losses, 1), 4),
            **{f"recall@{k}": round(v, 4) for k, v in figures.recall.items()},
            **{f"ndcg@{k}": round(v, 4) for k, v in figures.ndcg.items()},
            "train_s": round(self.seconds, 1),
            "evaluate_s": round(time.perf_counter() - begun, 1),
            "ms": {name: round(1e3 * spent / max(self.losses, 1), 1) for name, spent in self.parts.items()},
        }
        print(json.dumps(line), flush=True)
        self.loss, self.losses = 0.0, 0
        self.parts.clear()
        if self.options.out:
            save_file({"users": users.contiguous(), "items": items.contiguous()}, str(self.options.out))
        if self.options.state:
            self.save()

    def save(self) -> None:
        """Writes the state on which the next step depends."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "generator": self.sampler.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        fresh = self.options.state.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, self.options.state)

    def load(self) -> None:
        """Continues from a checkpoint."""
        state = torch.load(self.options.state, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.sampler.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]


if __name__ == "__main__":
    chosen = options()
    torch.set_num_threads(chosen.threads)
    print(
        json.dumps({name: str(value) for name, value in vars(chosen).items() if name not in ("data", "out", "state")})
    )
    Training(chosen).run()
