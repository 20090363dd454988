"""Refines the signs of users one by one, so that the users rank fixed items better. Training by an estimated gradient
changes a sign when a hidden value crosses its threshold, which need not be the sign that lowers the loss most. With
fixed items, that sign can be computed: this is bit by bit coordinate descent, as in discrete collaborative filtering
(Zhang et al., SIGIR 2016), here on the cross-entropy between a teacher's first items and the softmax over the
candidates C_u:

    loss(u) = log sum over c in C_u of exp(s_uc) - sum over r of p_r s_u,top(u, r),    p_r ~ exp(-decay r)

With x_hat_u = m_u + b_u h_u (b the signs, h half a step), turning sign d changes s_uc by -2 b_ud h_ud y_cd. The losses
after each of the d turns are therefore one product of a vector and a matrix of exponentials. After a turn, only one
column of the matrix changes.
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
_BLOCK_VALUES = 1 << 20  # most exponentials in memory at a time
_LEAST_GAIN = 1e-4  # least decrease of the loss by a turn; a smaller one may be a rounding error
_LARGEST = 40.0  # largest half change of a score: the square of its exponential must stay within float32
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
    """Turns signs of users, one at a time, while that ranks a teacher's first items better. No turn increases a user's
    loss. The candidates are the items of `top`, the same number of first items by the codes themselves, and some drawn
    items. Items and all constants stay as they are, so that users can be refined and items trained independently.

    Args:
        users: Codes of 1 bit [U, d].
        items: [I, d], codes of any width as values, or embeddings.
        top: int64 [U, R], first items of each user by a better model, best first; see `teacher_top`. Items beyond
            `ranks` are candidates only; some hundreds of them are a good number.
        exclude: Items that are not ranked, as for `teacher_top`.
        ranks: The number of items in `top` to rank first.
        decay: How fast their shares fall; the greater it is, the more the first items count.
        temperature: The divisor of scores, as in the softmax of the models' training; for rows of length 1, 0.03 to
            0.1.
        turns: The largest number of turns for each user.
        drawn: Number of drawn candidates of each user.
        seed: The seed of the drawn candidates.

    Returns:
        The users with refined codes.

    Raises:
        InputError: Users have more than 1 bit, sizes do not fit each other, an id is not an item, a number is out of
            range, or scores are too large for a softmax in float32.
    """
    rows = items.dequantize() if isinstance(items, QuantizedTable) else items
    _check(users, rows, top, ranks, turns, drawn)
    if not (0 <= decay < math.inf and 0 < temperature < math.inf):
        raise InputError(
            f"decay {decay} and temperature {temperature} must be positive and finite",
            where=_WHERE,
            hint="pass positive numbers",
        )
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
        middle: The middle of the two values of a code, float32 [n, d].
        half: Half the distance of the two values, float32 [n, d].
        candidates: The rows of the candidates, float32 [n, C, d]; the teacher's items come first.
        hidden: Whether an entry is not a candidate, bool [n, C].
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
        # The factor by which turning a sign multiplies the exponential of a score.
        self.factor = torch.exp(self.change * (-2 * self.signs)[:, None])

    def loss(self) -> Tensor:
        """[n]."""
        return self.scores.logsumexp(1) - self.reward - (self.wanted * self.signs).sum(1)

    def losses_after(self) -> Tensor:
        """The loss after turning one sign, for each sign, [n, d]."""
        most = self.scores.amax(1, keepdim=True)
        sums = torch.bmm(torch.exp(self.scores - most)[:, None], self.factor)[:, 0]
        kept = (self.wanted * self.signs).sum(1, keepdim=True) - 2 * self.wanted * self.signs
        return sums.log() + most - self.reward[:, None] - kept

    def run(self, turns: int) -> Tensor:
        """Turns the best sign of each user until no turn lowers the loss; returns codes, uint8 [n, d]."""
        loss = self.loss()
        going = torch.ones_like(loss, dtype=torch.bool)
        for _ in range(turns):
            after, sign = self.losses_after().min(1)
            going &= after < loss - _LEAST_GAIN
            users = going.nonzero()[:, 0]
            if not len(users):
                break
            self._turn(users, sign[users])
            # An exponential that underflows, relative to the largest score, stays zero in the estimate; in the exact
            # loss it may be positive again.
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
    """Whether a candidate occurs earlier in its row, bool [n, C]."""
    order = ids.sort(dim=1, stable=True)
    same = torch.zeros_like(ids, dtype=torch.bool)
    same[:, 1:] = order.values[:, 1:] == order.values[:, :-1]
    return torch.zeros_like(same).scatter_(1, order.indices, same)


def _among(ids: Tensor, lists: tuple[Tensor, Tensor], some: slice) -> Tensor:
    """Whether ids [n, C] are in the list of their row. `lists` are compressed sparse rows, and `some` selects the n
    rows of `ids`."""
    starts, members = lists
    bounds = starts[some.start : some.stop + 1]
    row = torch.repeat_interleave(bounds.diff())
    member = members[int(bounds[0]) : int(bounds[-1])].to(ids)
    width = max(int(ids.max()) if ids.numel() else 0, int(member.max()) if len(member) else 0) + 1
    own = torch.arange(len(ids), device=ids.device)[:, None] * width + ids
    return torch.isin(own, row.to(ids) * width + member)


def _halves(users: QuantizedTable, some: slice) -> tuple[Tensor, Tensor]:
    """The middle of the two values of a code, and half their distance, float32 [n, d]."""
    shape = users.codes[some].shape
    lower, step = (
        (constant[some] if constant.ndim == 2 and len(constant) > 1 else constant).float().expand(shape)
        for constant in (users.lower, users.step)
    )
    middle = lower + step / 2
    return (middle if users.centre is None else middle + users.centre.float()), step / 2


def _check(users: QuantizedTable, rows: Tensor, top: Tensor, ranks: int, turns: int, drawn: int) -> None:
    if users.bits != 1:
        raise InputError(
            f"codes of {users.bits} bits have no signs to turn", where=_WHERE, hint="round the users with bits=1 first"
        )
    check_finite(rows, _WHERE)
    for name in ("lower", "step", "centre"):
        constant = getattr(users, name)
        if constant is not None and not bool(constant.isfinite().all()):
            raise InputError(
                f"the users' {name} holds NaN or infinities", where=_WHERE, hint="remove or replace these numbers first"
            )
    if rows.shape[1] != users.codes.shape[1]:
        raise InputError(
            f"users {list(users.codes.shape)} and items {list(rows.shape)} differ in columns",
            where=_WHERE,
            hint="pass embeddings of users and items with equal numbers of columns",
        )
    if top.dtype != torch.int64 or top.ndim != 2 or len(top) != len(users.codes) or not top.shape[1]:
        raise InputError(
            f"top must be int64 [{len(users.codes)}, R], got {top.dtype} {list(top.shape)}",
            where=_WHERE,
            hint="pass what recfx.learn.teacher_top returns",
        )
    if top.numel() and not 0 <= int(top.min()) <= int(top.max()) < len(rows):
        raise InputError(
            f"top names items from {int(top.min())} to {int(top.max())}, there are {len(rows)}",
            where=_WHERE,
            hint="remove the ids that are not ids of items",
        )
    if ranks < 1 or turns < 1 or drawn < 0:
        raise InputError(
            f"ranks {ranks}, turns {turns} or drawn {drawn} are too few", where=_WHERE, hint="pass 1 or more of each"
        )
