"""Pairwise ranking losses over tables of embeddings, with their gradient in the same pass.

With x_bm = users[u_b] . (items[p_b] - items[n_bm]):

    Bayesian personalised ranking (Rendle et al. 2009)    mean over b, m of softplus(-x_bm)
    joint: sampled softmax                                mean over b of log(1 + sum over m of exp(-x_bm))

With one negative a sample the two are the same.

The gradient touches few rows often (popular items) and most rows never; one kernel that gathers, scores and accumulates avoids the tables
of gathered rows that autograd would keep.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recfx.ops.library import DECLARED, define, differentiate


def plain_loss(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> Tensor:
    """The loss in plain torch, differentiable any number of times; see `bpr_loss`."""
    u, p, n = F.embedding(user_ids, users), F.embedding(positives, items), F.embedding(negatives, items)
    return _losses(-(u.unsqueeze(1) * (p.unsqueeze(1) - n)).sum(2), joint).mean()


def _losses(lag: Tensor, joint: bool) -> Tensor:
    """The losses of scores' differences [B, M], negative minus positive: [B] jointly, else [B, M]."""
    return F.pad(lag, (1, 0)).logsumexp(1) if joint else F.softplus(lag)


def check_samples(users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor) -> None:
    """Refuses operands of wrong ranks, dtypes or sizes.

    Raises:
        ValueError: A rank, dtype or size that does not fit, or no sample.
    """
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1] or users.dtype != items.dtype:
        raise ValueError(
            f"tables must be [U, D] and [I, D] of one dtype, got {users.dtype} {list(users.shape)} and "
            f"{items.dtype} {list(items.shape)}"
        )
    for name, ids in (("user_ids", user_ids), ("positives", positives), ("negatives", negatives)):
        if ids.dtype != torch.int64 or ids.shape[:1] != user_ids.shape[:1] or ids.ndim != 1 + (name == "negatives"):
            raise ValueError(
                f"{name} must be int64 [B{', M' * (name == 'negatives')}], got {ids.dtype} {list(ids.shape)}"
            )
    if negatives.numel() == 0:
        raise ValueError("a batch needs at least one sample and one negative")


def reference(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference implementation of `recfx::bpr`: the loss, and its gradients with respect to both tables.

    Raises:
        ValueError: Operands of wrong ranks, dtypes or sizes, see `check_samples`.
        IndexError: An id outside its table.
    """
    check_samples(users, items, user_ids, positives, negatives)
    return _decomposition(users, items, user_ids, positives, negatives, joint)


def _decomposition(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference` without its checks of shapes, which could fix sizes; `embedding` checks the ids."""
    u, p, n = F.embedding(user_ids, users), F.embedding(positives, items), F.embedding(negatives, items)
    difference = p.unsqueeze(1) - n
    lag = -(u.unsqueeze(1) * difference).sum(2)
    losses = _losses(lag, joint)
    shares = F.pad(lag, (1, 0)).softmax(1)[:, 1:] if joint else lag.sigmoid()
    slopes = -shares / losses.numel()
    by_users = torch.zeros_like(users).index_add(0, user_ids, (slopes.unsqueeze(2) * difference).sum(1))
    by_items = torch.zeros_like(items).index_add(0, positives, slopes.sum(1, keepdim=True) * u)
    by_items = by_items.index_add(0, negatives.flatten(), (-slopes.unsqueeze(2) * u.unsqueeze(1)).flatten(0, 1))
    return losses.mean(), by_users.detach(), by_items.detach()


def _fake(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return users.new_empty(()), torch.empty_like(users), torch.empty_like(items)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:5], *output[1:])
    ctx.joint = inputs[5]


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    users, items, user_ids, positives, negatives, by_users, by_items = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: the kernel's gradients have no autograd history
        loss = plain_loss(users, items, user_ids, positives, negatives, ctx.joint)
        by_users, by_items = torch.autograd.grad(loss, (users, items), gradient, create_graph=True)
        return by_users, by_items, None, None, None, None
    # The usual case. On CPUs the test is free, and it saves two large products.
    if type(gradient) is Tensor and gradient.device.type == "cpu" and float(gradient) == 1:
        return by_users, by_items, None, None, None, None
    return by_users * gradient, by_items * gradient, None, None, None, None


bpr = define(
    "bpr(Tensor users, Tensor items, Tensor user_ids, Tensor positives, Tensor negatives, bool joint=False) -> "
    "(Tensor, Tensor, Tensor)",
    reference,
    _fake,
    _decomposition,
    gradient=DECLARED,
)
differentiate("bpr", _backward, _keep)


def bpr_loss(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> Tensor:
    """The mean loss of a batch, differentiable with respect to both tables.

    Args:
        users: Floating point [U, D].
        items: [I, D], of the same dtype.
        user_ids: int64 [B], in [0, U).
        positives: int64 [B], in [0, I).
        negatives: int64 [B, M], in [0, I).
        joint: Whether the negatives of a sample share one softmax with the positive.

    Returns:
        A scalar, of the tables' dtype.

    Raises:
        ValueError: Operands of wrong ranks, dtypes or sizes, see `check_samples`.
        IndexError: An id outside its table.
    """
    loss: Tensor = bpr(users, items, user_ids, positives, negatives, joint)[0]
    return loss
