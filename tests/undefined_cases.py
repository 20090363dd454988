"""Operations that are undefined in C++ or trap on processors: sizes of zero, divisors of 0 and -1, shifts, casts.
Functions of one or more tensors.

`python tests/undefined_cases.py` runs the whole table at every instruction-set level and compares it with torch; it
runs in a process of its own because the faults that it looks for end the process.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]

_LOW, _HIGH = -(2**63), 2**63 - 1
LONG = torch.tensor([[_LOW, _HIGH, 0, -1, 1], [-7, 7, -3, 3, 2], [2**31, -(2**31), 2**31 - 1, -(2**31) - 1, 5]])
INT = torch.tensor([[-(2**31), 2**31 - 1, 0, -1, 1], [-7, 7, -3, 3, 2], [5, 6, -8, 9, 10]], dtype=torch.int32)
FLOATS = torch.tensor(
    [[math.nan, math.inf, -math.inf, 1e30, -1e30], [2.0**31, -(2.0**31) - 1, 2.0**63, -(2.0**63), 9.3e18], [-0.0, -0.9, 254.7, 256.5, -1.0]]
)  # fmt: skip
BYTES = torch.tensor([[0, 1, 255, 128, 3], [7, 254, 2, 9, 4], [5, 5, 0, 0, 1]], dtype=torch.uint8)
SMALL = torch.tensor([[-128, 127, -1, 0, 5], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]], dtype=torch.int8)
FLAGS = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])
X = torch.randn(3, 4, 6)
NO_COLUMNS, NO_ROWS, NO_IDS = torch.zeros(3, 4, 0), torch.zeros(3, 0, 6), torch.zeros(3, 0, dtype=torch.long)
_Q, _K = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 0, 8)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor | None = None, **how: Any) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, k if v is None else v, **how)


_PRODUCTS: dict[str, Case] = {
    "bmm over nothing": (torch.bmm, (NO_COLUMNS, torch.zeros(3, 0, 5))),
    "bmm of no columns": (torch.bmm, (X, torch.zeros(3, 6, 0))),
    "bmm of no rows": (torch.bmm, (NO_ROWS, torch.randn(3, 6, 2))),
    "baddbmm over nothing": (
        partial(torch.baddbmm, beta=2, alpha=3), (torch.randn(3, 4, 5), NO_COLUMNS, torch.zeros(3, 0, 5))
    ),
    "baddbmm without its summand": (
        partial(torch.baddbmm, beta=0), (torch.full((3, 4, 5), math.nan), NO_COLUMNS, torch.zeros(3, 0, 5))
    ),
    "addmm": (lambda c, a: torch.addmm(c, a, torch.zeros(0, 5)), (torch.randn(3, 5), torch.zeros(3, 0))),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), (NO_COLUMNS, torch.zeros(3, 0, 5))),
    "einsum, turned": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), (NO_COLUMNS, torch.zeros(3, 2, 0))),
    "einsum of a constant": (lambda a: torch.einsum("bij,jk->bik", a, torch.zeros(0, 3)), (NO_COLUMNS,)),
    "einsum of one": (lambda a: torch.einsum("bijk->bki", a), (torch.zeros(3, 2, 0, 4),)),
    "rank four": (torch.matmul, (torch.zeros(3, 2, 4, 0), torch.zeros(3, 2, 0, 5))),
    "rank four, constant": (lambda a: a @ torch.zeros(0, 5), (torch.zeros(3, 2, 4, 0),)),
    "a vector": (lambda a: a @ torch.zeros(0), (NO_COLUMNS,)),
    "no keys": (_attend, (_Q, _K)),
    "no queries": (_attend, (_K, _Q)),
    "no heads": (lambda q: _attend(q, q), (torch.zeros(3, 0, 4, 8),)),
    "heads of no columns": (lambda q, v: _attend(q, q, v), (torch.zeros(3, 2, 4, 0), _Q)),
    "values of no columns": (lambda q, v: _attend(q, q, v), (_Q, torch.zeros(3, 2, 4, 0))),
    "causal, fewer keys": (lambda q: _attend(q, q[:, :, :2] + 0, is_causal=True), (_Q,)),
    "causal, more keys": (lambda q: _attend(q[:, :, :2] + 0, q, is_causal=True), (_Q,)),
    "a scale of zero": (lambda q: _attend(q, q, scale=0.0), (_Q,)),
}  # fmt: skip

_FOLDS: dict[str, Case] = {
    name: (function, (x,))
    for name, function, x in (
        ("layer norm", lambda x: functional.layer_norm(x, [0]), NO_COLUMNS),
        ("layer norm of two", lambda x: functional.layer_norm(x, [4, 0]), NO_COLUMNS),
        ("layer norm of no rows", lambda x: functional.layer_norm(x, [6]), NO_ROWS),
        ("rms norm", lambda x: functional.rms_norm(x, [0]), NO_COLUMNS),
        ("softmax", lambda x: x.softmax(-1), NO_COLUMNS),
        ("softmax of no rows", lambda x: x.softmax(1), NO_ROWS),
        ("log softmax", lambda x: x.log_softmax(-1), NO_COLUMNS),
        ("mean", lambda x: x.mean(-1), NO_COLUMNS),
        ("mean of two", lambda x: x.mean((1, 2)), NO_COLUMNS),
        ("sum", lambda x: x.sum(-1), NO_COLUMNS),
        ("product", lambda x: x.prod(-1), NO_COLUMNS),
        ("any", lambda x: (x > 0).any(-1), NO_COLUMNS),
        ("all", lambda x: (x > 0).all(-1), NO_COLUMNS),
        ("variance", lambda x: x.var(-1), NO_COLUMNS),
        ("deviation of one column", lambda x: x[:, :, :1].std(-1), X),
        ("deviation of one row", lambda x: x[:, :1].std(1), X),
        ("variance and mean of one", lambda x: torch.var_mean(x[:, :, :1], -1), X),
        ("variance, corrected by all", lambda x: x.var(-1, correction=6), X),
        ("variance, corrected by more", lambda x: x.var(-1, correction=7), X),
        ("largest none", lambda x: x.topk(0, -1)[0], X),
        ("largest none of nothing", lambda x: x.topk(0, -1)[0], NO_COLUMNS),
        ("sorted", lambda x: x.sort(-1)[0], NO_COLUMNS),
        ("running sum", lambda x: x.cumsum(-1), NO_COLUMNS),
        ("running sum of no rows", lambda x: x.cumsum(1), NO_ROWS),
        ("running product", lambda x: x.cumprod(-1), NO_COLUMNS),
        ("log sum exp", lambda x: x.logsumexp(-1), NO_COLUMNS),
        ("norm", lambda x: x.norm(dim=-1), NO_COLUMNS),
        ("normalized", lambda x: functional.normalize(x, dim=-1), NO_COLUMNS),
        ("group norm", lambda x: functional.group_norm(x, 2), X),
        ("rows without columns", lambda i: functional.embedding(i % 5, torch.zeros(5, 0)), LONG.abs() % 5),
        ("rows of an empty table", lambda i: functional.embedding(i, torch.zeros(0, 4)), NO_IDS),
        ("no picks", lambda i: torch.ones(4).index_select(0, i.flatten()).sum() + i.sum(1), NO_IDS),
        ("no repeats", lambda x: x.repeat(1, 0, 2) * 2, X),
        ("expanded to nothing", lambda x: x[:, :, :1].expand(-1, -1, 0) * 2, X),
        ("padded", lambda x: functional.pad(x, (1, 1)) * 2, NO_COLUMNS),
        ("joined", lambda x: torch.cat([x[:, :, :0], x], -1) * 2, X),
        ("split", lambda x: x.chunk(2, -1)[0] * 2, NO_COLUMNS),
        ("rolled", lambda x: x.roll(1, -1) * 2, NO_COLUMNS),
        ("windows", lambda x: x.unfold(1, 2, 1) * 2, X),
    )
}

_BY_NUMBERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "// -1": lambda i: i // -1,
    "% -1": lambda i: i % -1,
    "modulo -1": lambda i: torch.fmod(i, -1),
    "// -7": lambda i: i // -7,
    "/ -1": lambda i: i / -1,
    "/ 0": lambda i: i / 0,
    "magnitude": lambda i: i.abs(),
    "negated": lambda i: -i,
    "sign": lambda i: i.sign(),
    "squared": lambda i: i * i,
    "cubed": lambda i: i**3,
    "wrapped up": lambda i: i + (2**31 - 1),
    "wrapped down": lambda i: -2 - i,
    "sum": lambda i: i.sum(1),
    "running sum": lambda i: i.cumsum(1),
    "product": lambda i: i.prod(1),
    "left by 40": lambda i: i << 40,
    "left by 70": lambda i: i << 70,
    "left by -1": lambda i: i << -1,
    "right by 64": lambda i: i >> 64,
    "right by -3": lambda i: i >> -3,
    "compared": lambda i: i >= 2**31 - 1,
    "compared with a fraction": lambda i: i > 2.5,
    "bits": lambda i: (i & -2) | 1,
    "other bits": lambda i: ~i ^ 7,
    "to float": lambda i: i.float(),
    "to long": lambda i: i.long(),
    "to int": lambda i: i.int(),
    "to bytes": lambda i: i.to(torch.uint8),
    "to small": lambda i: i.to(torch.int8),
    "to flags": lambda i: i.bool(),
    "filled": lambda i: i.masked_fill(i > 0, 9),
    "chosen": lambda i: torch.where(i > 0, i, i.flip(1)),
    "larger": lambda i: torch.maximum(i, i.flip(1)),
    "largest": lambda i: i.amax(1),
    "where largest": lambda i: i.argmax(1),
    "joined": lambda i: torch.cat([i, i], 1),
}

_OF_TENSORS: dict[str, Case] = {
    "// a tensor": (lambda i, j: i // j, (LONG, torch.full_like(LONG, -1))),
    "% a tensor": (lambda i, j: i % j, (LONG, torch.full_like(LONG, -1))),
    "int // a tensor": (lambda i, j: i // j, (INT, torch.full_like(INT, -1))),
    "modulo a tensor": (torch.fmod, (LONG, torch.full_like(LONG, -1))),
    "left by a tensor": (lambda i, j: i << j, (LONG, LONG)),
    "right by a tensor": (lambda i, j: i >> j, (LONG, LONG)),
    "no positions": (lambda x, i: torch.gather(x[:, :, 0], 1, i), (X, NO_IDS)),
}

_OF_FLOATS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "to long": lambda x: x.long(),
    "to int": lambda x: x.int(),
    "to bytes": lambda x: x.to(torch.uint8),
    "to small": lambda x: x.to(torch.int8),
    "to short": lambda x: x.to(torch.int16),
    "to flags": lambda x: x.bool(),
    "to bfloat16": lambda x: x.bfloat16().float(),
    "to half": lambda x: x.half().float(),
    "ids": lambda x: x.long() * 2 + 1,
    "rounded": lambda x: x.round(),
    "// 0": lambda x: x // 0.0,
    "% 0": lambda x: x % 0.0,
    "modulo 0": lambda x: torch.fmod(x, 0.0),
    "to the power 0": lambda x: x**0,
    "to the power -1": lambda x: x**-1,
    "where largest": lambda x: x.argmax(1),
    "largest": lambda x: x.max(1)[0],
}

#: Kind -> name -> case. The cases of a kind share a program.
KINDS: dict[str, dict[str, Case]] = {
    "products": _PRODUCTS,
    "folds": _FOLDS,
    **{
        label: {name: (function, (of,)) for name, function in _BY_NUMBERS.items()}
        for label, of in (("long", LONG), ("int", INT), ("bytes", BYTES), ("int8", SMALL))
    },
    "flags": {name: (_BY_NUMBERS[name], (FLAGS,)) for name in ("sum", "to float", "product", "joined", "to long")},
    "tensors": _OF_TENSORS,
    "floats": {name: (function, (FLOATS,)) for name, function in _OF_FLOATS.items()},
}


def _takes(case: Case) -> bool:
    """Whether torch itself accepts a case: some dtypes lack some operators."""
    function, inputs = case
    try:
        function(*inputs)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _parts(found: Any) -> list[torch.Tensor]:
    return list(found) if isinstance(found, (tuple, list)) else [found]


def compare(kind: str) -> list[str]:
    """The differences between torch and a program of the cases of a kind, at every level."""
    from native_kit import LEVELS, partition, program_of

    from recfx.runtime.flat import flat_function

    cases = {name: case for name, case in KINDS[kind].items() if _takes(case)}
    inputs = [tensor for _, own in cases.values() for tensor in own]

    def together(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found, left = [], list(given)
        for function, own in cases.values():
            found += _parts(function(*(left.pop(0) for _ in own)))
        return tuple(found)

    owners = [name for name, (function, own) in cases.items() for _ in _parts(function(*own))]
    program, expected, wrong = program_of(together, inputs), together(*inputs), []
    for level in LEVELS:
        sys.stdout.write(f"{kind} at {level}\n")
        sys.stdout.flush()
        found = flat_function(partition(program, level).region)(*inputs)
        for name, got, want in zip(owners, found, expected, strict=True):
            try:
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)
            except AssertionError as error:
                wrong.append(f"{kind}, {name}, at {level}: {' '.join(str(error).split())}")
    return wrong


def main() -> None:
    """Runs the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    wrong = [difference for kind in KINDS for difference in compare(kind)]
    sys.stdout.write("\n".join([*wrong, ""]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
