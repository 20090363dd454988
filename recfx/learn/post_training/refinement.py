"""Signs of users chosen one by one for the order in which they rank fixed items.

An estimator of gradients changes a sign when a hidden value has crossed its threshold; which sign would help most it does not ask. With
the items fixed that question has an answer: bit by bit coordinate descent, as in discrete collaborative filtering (Zhang et al., SIGIR
2016), here on the cross-entropy between a teacher's first items and the softmax over the candidates C_u:

    loss(u) = log sum over c in C_u of exp(s_uc) - sum over r of p_r s_u,top(u, r),    p_r ~ exp(-decay r)

With x_hat_u = m_u + b_u h_u (b the signs, h half a step), turning sign d changes s_uc by -2 b_ud h_ud y_cd. The losses after each of the d
turns therefore take one product of a vector and a matrix of exponentials, of which only the column that turned changes.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.formats.rotations import check_finite
from recfx.learn.codes import QuantizedTable
from recfx.learn.distillation import teacher_top
from recfx.progress import progress

_WHERE = "refine_signs"
_BLOCK_VALUES = 1 << 20  # exponentials that are held together
_LEAST_GAIN = 1e-4  # of a turn; less is rounding
_LARGEST = 40.0  # of a half change of a score: its exponential, squared, must stay in float32
_HIDDEN = -1e9


@torch.no_grad()
def refine_signs(
    users: QuantizedTable,
    items: QuantizedTable | Tensor,
    top: Tensor,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    ranks: int = 100,
    decay: float = 0.06,
    temperature: float = 1.0,
    turns: int = 16,
    drawn: int = 200,
    seed: int = 0,
) -> QuantizedTable:
    """Turns signs of users, one at a time, as long as that ranks a teacher's first items better.

    Every user's loss falls with each turn or stays. The candidates are the items of `top`, as many first items of the codes themselves, and
    some drawn ones. Items and all constants stay as they are, so users may be refined one day and items trained another.

    Args:
        users: Codes of 1 bit [U, d].
        items: [I, d], codes of any width as values, or embeddings.
        top: int64 [U, R], first items of each user by a better model, best first; see `teacher_top`. Those beyond `ranks` are candidates
            only: some hundreds are good.
        exclude: Items that are not to be ranked, as for `teacher_top`.
        ranks: How many of `top` are to be ranked first.
        decay: How fast their shares fall; the greater, the more the very first count.
        temperature: What scores are divided by, as in the softmax that the models were trained with: rows of length 1 want 0.03 to 0.1.
        turns: Signs of a user that may turn.
        drawn: Further candidates of each user.
        seed: Of these.

    Returns:
        The users with other codes.

    Raises:
        InputError: Users of more than 1 bit, sizes that do not belong together, ids of no item, numbers out of range, or scores that leave
            softmax in float32.
    """
    rows = items.dequantize() if isinstance(items, QuantizedTable) else items
    _check(users, rows, top, ranks, turns, drawn)
    if not (0 <= decay < math.inf and 0 < temperature < math.inf):
        raise InputError(f"decay {decay} and temperature {temperature} must be positive and finite", where=_WHERE)
    if not len(users.codes) or not len(rows):
        return users
    rows = rows.float()
    own = teacher_top(users.dequantize().float(), rows, min(top.shape[1], len(rows)), exclude=exclude)
    shares = torch.exp(-decay * torch.arange(min(ranks, top.shape[1]), dtype=torch.float64)).to(rows)
    shares /= shares.sum()
    generator = torch.Generator().manual_seed(seed)
    codes = users.codes.clone()
    candidates = top.shape[1] + own.shape[1] + drawn
    step = max(1, _BLOCK_VALUES // (candidates * codes.shape[1]))
    with progress(f"refining {len(codes):,} users", len(codes)) as advance:
        for start in range(0, len(codes), step):
            some = slice(start, min(start + step, len(codes)))
            further = torch.randint(0, len(rows), (some.stop - start, drawn), generator=generator).to(top)
            ids = torch.cat([top[some], own[some], further], 1)
            hidden = _again(ids)
            if exclude is not None:
                hidden[:, top.shape[1] :] |= _among(ids[:, top.shape[1] :], exclude, some)
            middle, half = (part / temperature for part in _halves(users, some))
            codes[some] = _Descent(codes[some], middle, half, rows[ids], hidden, shares).run(turns)
            advance(some.stop - start)
    return dataclasses.replace(users, codes=codes)


class _Descent:
    """A block of users.

    Args:
        codes: uint8 [n, d].
        middle: What users are without the signs, float32 [n, d].
        half: The value of a sign, float32 [n, d].
        candidates: Their rows, float32 [n, C, d]; the first are the teacher's.
        hidden: Which of them are none, bool [n, C].
        shares: [R].
    """

    def __init__(
        self, codes: Tensor, middle: Tensor, half: Tensor, candidates: Tensor, hidden: Tensor, shares: Tensor
    ) -> None:
        self.signs = codes.float() * 2 - 1
        fixed = torch.bmm(candidates, middle[:, :, None])[:, :, 0]
        self.change = candidates * half[:, None]
        largest = float(self.change.abs().max())
        if not largest <= _LARGEST:
            raise InputError(
                f"a sign changes a score by {2 * largest:g}, too much for a softmax",
                where=_WHERE,
                hint=f"raise the temperature to {largest / _LARGEST:.3g} or more times its value",
            )
        self.wanted = torch.einsum("ncd,c->nd", self.change[:, : len(shares)], shares)
        self.reward = torch.einsum("nc,c->n", fixed[:, : len(shares)], shares)
        scores = torch.bmm(self.change, self.signs[:, :, None])[:, :, 0] + fixed
        self.scores = scores.masked_fill_(hidden, _HIDDEN)
        # What turning a sign multiplies the exponential of a score by.
        self.factor = torch.exp(self.change * (-2 * self.signs)[:, None])

    def loss(self) -> Tensor:
        """[n]."""
        return self.scores.logsumexp(1) - self.reward - (self.wanted * self.signs).sum(1)

    def losses_after(self) -> Tensor:
        """The loss after one sign turned, [n, d]."""
        most = self.scores.amax(1, keepdim=True)
        sums = torch.bmm(torch.exp(self.scores - most)[:, None], self.factor)[:, 0]
        kept = (self.wanted * self.signs).sum(1, keepdim=True) - 2 * self.wanted * self.signs
        return sums.log() + most - self.reward[:, None] - kept

    def run(self, turns: int) -> Tensor:
        """Turns the best sign of each user until none helps; gives codes, uint8 [n, d]."""
        loss = self.loss()
        going = torch.ones_like(loss, dtype=torch.bool)
        for _ in range(turns):
            after, sign = self.losses_after().min(1)
            going &= after < loss - _LEAST_GAIN
            users = going.nonzero()[:, 0]
            if not len(users):
                break
            self._turn(users, sign[users])
            # An exponential that vanished beside the largest score stays zero in the estimate, but it may return in the exact loss.
            found = self.loss()
            worse = users[~(found < loss)[users]]
            self._turn(worse, sign[worse])
            going[worse] = False
            loss = torch.where(going, found, loss)
        return (self.signs > 0).to(torch.uint8)

    def _turn(self, users: Tensor, sign: Tensor) -> None:
        self.scores[users] -= 2 * self.signs[users, sign][:, None] * self.change[users, :, sign]
        self.factor[users, :, sign] = 1 / self.factor[users, :, sign]
        self.signs[users, sign] *= -1


def _again(ids: Tensor) -> Tensor:
    """Which candidates a row has named before, bool [n, C]."""
    order = ids.sort(dim=1, stable=True)
    same = torch.zeros_like(ids, dtype=torch.bool)
    same[:, 1:] = order.values[:, 1:] == order.values[:, :-1]
    return torch.zeros_like(same).scatter_(1, order.indices, same)


def _among(ids: Tensor, lists: tuple[Tensor, Tensor], some: slice) -> Tensor:
    """Which ids [n, C] are in the list of their row; `lists` as compressed sparse rows, of which `some` go with the n."""
    starts, members = lists
    bounds = starts[some.start : some.stop + 1]
    row = torch.repeat_interleave(bounds.diff())
    member = members[int(bounds[0]) : int(bounds[-1])].to(ids)
    width = max(int(ids.max()) if ids.numel() else 0, int(member.max()) if len(member) else 0) + 1
    own = torch.arange(len(ids), device=ids.device)[:, None] * width + ids
    return torch.isin(own, row.to(ids) * width + member)


def _halves(users: QuantizedTable, some: slice) -> tuple[Tensor, Tensor]:
    """The middle of a user's two values of each column and half their distance, float32 [n, d]."""
    shape = users.codes[some].shape
    lower, step = (
        (constant[some] if constant.ndim == 2 and len(constant) > 1 else constant).float().expand(shape)
        for constant in (users.lower, users.step)
    )
    middle = lower + step / 2
    return (middle if users.centre is None else middle + users.centre.float()), step / 2


def _check(users: QuantizedTable, rows: Tensor, top: Tensor, ranks: int, turns: int, drawn: int) -> None:
    if users.bits != 1:
        raise InputError(f"codes of {users.bits} bits have no signs to turn", where=_WHERE)
    check_finite(rows, _WHERE)
    for name in ("lower", "step", "centre"):
        constant = getattr(users, name)
        if constant is not None and not bool(constant.isfinite().all()):
            raise InputError(f"the users' {name} holds NaN or infinities", where=_WHERE)
    if rows.shape[1] != users.codes.shape[1]:
        raise InputError(
            f"users {list(users.codes.shape)} and items {list(rows.shape)} differ in columns", where=_WHERE
        )
    if top.dtype != torch.int64 or top.ndim != 2 or len(top) != len(users.codes) or not top.shape[1]:
        raise InputError(f"top must be int64 [{len(users.codes)}, R], got {top.dtype} {list(top.shape)}", where=_WHERE)
    if top.numel() and not 0 <= int(top.min()) <= int(top.max()) < len(rows):
        raise InputError(
            f"top names items from {int(top.min())} to {int(top.max())}, there are {len(rows)}", where=_WHERE
        )
    if ranks < 1 or turns < 1 or drawn < 0:
        raise InputError(f"ranks {ranks}, turns {turns} or drawn {drawn} are too few", where=_WHERE)
