"""Top-k over quantised items by the native kernels: the arguments of a search, and its call."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recfx.errors import InputError, TargetError
from recfx.formats.searchable import unfit
from recfx.kernels.codes import Dtype, RoundingResult, RoundTo, SearchResult, Size
from recfx.kernels.library import library, search_level
from recfx.kernels.memory import address
from recfx.kernels.search_structs import Queries, Rescore, Search

#: Items of one block.
BLOCK = int(Size.SEARCH_BLOCK)

#: Form of rounded queries -> its number in the kernels.
_ROUNDED_TO = {"numbers": RoundTo.NUMBERS, "signs": RoundTo.SIGNS, "bits": RoundTo.BITS, "codes": RoundTo.CODES}

#: Dtypes of the rows of a rescoring.
_ROW_DTYPES = {torch.float32: Dtype.F32, torch.float16: Dtype.F16, torch.uint8: Dtype.U8}
_OTHER_SOURCES, _REBUILD = "the native kernels were built from other sources", "build and install recfx again"


# Not frozen: every query makes an object, and a frozen class takes longer to set its fields.
@dataclass(slots=True)
class Rounding:
    """Queries to be rounded. Their score is gain * value + offset, with gain = unit * step and offset = constant + unit * lower * sum.

    Attributes:
        values: float32 [Q, dim], or uint8 of 0 and 1 for `codes`; contiguous.
        to: The form after rounding. `numbers`: from -127 to 127, in units of max |q| / 127, or 1 for rows of zeros. `signs`: a bit is set
            where a value is above zero; the unit is mean |q|. `bits`: the same bits with unit 1. `codes`: the same bits
            from codes 0 and 1.
        step: The factor of the unit in the gain.
        lower: The factor of unit * sum in the offset.
        constant: The part of the offset that does not depend on the query.
    """

    values: Tensor
    to: Literal["numbers", "signs", "bits", "codes"]
    step: float = 1.0
    lower: float = 0.0
    constant: float = 0.0

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.values)

    def unfit(self, row: int) -> InputError:
        """Returns the error for a row that cannot be rounded."""
        return (
            InputError(f"row {row} of queries holds codes above 1", hint="pass codes of 0 and 1 to a search of 1 bit")
            if self.to == "codes"
            else unfit(row, "queries")
        )


@dataclass(slots=True)
class Scan:
    """A search through all items, all tensors contiguous and on the CPU.

    With queries of words the product of an item and a query is `dim - 2 * (bits that differ)`, otherwise the dot product of the item's
    codes and the query's numbers. Items rank by the value, which is the product, or `scale * product + bias * query_sum`, or, without a
    bias, `scale * (product + lower * query_sum)`.

    Attributes:
        blocks: int32 [at least ceil(items / 16), words, 16]: the words of 16 items lie next to each other; codes fill a word from its
            lowest bits, and the rest of the last word is zero.
        items: The number of items.
        dim: Codes of an item; at most 65,536, so that every product fits into 32 bits.
        bits: 1, 2, 4 or 8 of a code.
        queries: int32 [Q, words], or int8 [Q, words * 32 / bits] above -128, zero beyond `dim`; or values to be rounded to either, with
            the sums, gain and offset of `round_queries`.
        k: The number of items to find for each query, at least 1.
        scale: float32 [items, padded to the last block of 16, which is read], or None.
        bias: Like `scale`, or None.
        query_sum: float32 [Q]; required with `scale` if the queries are rounded already.
        lower: See above.
        dead: int64 [at least ceil(items / 64)] of bits, or None; items whose bit is set are not found.
        exclude: The first excluded id of each query as a position in the ids, int64 [Q + 1], and the ids, ascending within a query.
        gain: float32 [Q], or None; then scores are `gain * value + offset`, otherwise the values.
        offset: float32 [Q]; required with `gain`.
    """

    blocks: Tensor
    items: int
    dim: int
    bits: int
    queries: Tensor | Rounding
    k: int
    scale: Tensor | None = None
    bias: Tensor | None = None
    query_sum: Tensor | None = None
    lower: float = 0.0
    dead: Tensor | None = None
    exclude: tuple[Tensor, Tensor] | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None


@dataclass(frozen=True)
class Rounded:
    """Rounded queries.

    Attributes:
        rows: int32 words or int8 numbers, see `Scan.queries`.
        sums: float32 [Q], of the numbers, or of the signs.
        gain: float32 [Q].
        offset: float32 [Q].
    """

    rows: Tensor
    sums: Tensor
    gain: Tensor
    offset: Tensor


def round_queries(asked: Rounding, width: int) -> Rounded:
    """Rounds queries.

    Args:
        asked: The queries.
        width: Words, or numbers, of a row of the result; a query must fit into it.

    Raises:
        InputError: A row holds NaN, infinities, numbers beyond 1e15, or codes above 1.
        TargetError: The kernels cannot run here.
    """
    count, dim = asked.values.shape
    rows = torch.empty(count, width, dtype=torch.int8 if asked.to == "numbers" else torch.int32, device="cpu")
    numbers = torch.empty(3, count, dtype=torch.float32, device="cpu")
    at, row_bytes = address(numbers), 4 * count
    call = Queries(
        struct_bytes=ctypes.sizeof(Queries),
        queries=count,
        dim=dim,
        kind=_ROUNDED_TO[asked.to],
        width=width,
        values=address(asked.values),
        rows=address(rows),
        step=asked.step,
        lower=asked.lower,
        constant=asked.constant,
        gain=at,
        offset=at + row_bytes,
        sums=at + 2 * row_bytes,
    )
    code: int = library().calls["recfx_round_queries"](ctypes.byref(call))
    if code == RoundingResult.OTHER_SOURCES:
        raise TargetError(_OTHER_SOURCES, hint=_REBUILD)
    if code != RoundingResult.DONE:
        raise asked.unfit(code)
    gain, offset, sums = numbers.unbind()
    return Rounded(rows, sums, gain, offset)


def scan(search: Scan, level: str | None = None, threads: int | None = None) -> tuple[Tensor, Tensor]:
    """Finds the k best items of every query. Among items of equal value, those of lower id come first.

    Args:
        search: The arguments of the search.
        level: The instruction-set level; the best one by default.
        threads: The number of threads; torch's number by default. The answer depends neither on it nor on the level.

    Returns:
        Scores, float32 [Q, k] and descending, and ids, int64 [Q, k]; -inf and -1 beyond the last item.

    Raises:
        InputError: Queries cannot be rounded, see `round_queries`.
        TargetError: The kernels cannot run here, or memory is short.
    """
    scores = torch.empty(len(search.queries), search.k, dtype=torch.float32, device="cpu")
    return scores, _scan(search, scores, level, threads)


def shortlist(search: Scan, level: str | None = None, threads: int | None = None) -> Tensor:
    """Returns the ids that `scan` finds, in any order."""
    return _scan(search, None, level, threads)


def _scan(search: Scan, scores: Tensor | None, level: str | None, threads: int | None) -> Tensor:
    asked = search.queries
    count = len(asked)
    ids = torch.empty(count, search.k, dtype=torch.int64, device="cpu")
    starts, excluded = search.exclude if search.exclude is not None else (None, None)
    call = Search(
        struct_bytes=ctypes.sizeof(Search),
        items=search.items,
        dim=search.dim,
        bits=search.bits,
        words=search.blocks.shape[1],
        queries=count,
        k=search.k,
        blocks=address(search.blocks),
        scale=_address(search.scale),
        bias=_address(search.bias),
        dead=_address(search.dead),
        exclude_from=_address(starts),
        exclude=_address(excluded),
        scores=_address(scores),
        ids=address(ids),
        lower=search.lower,
    )
    if isinstance(asked, Rounding):
        call.hamming = int(asked.to != "numbers")
        call.query_kind, call.values = _ROUNDED_TO[asked.to], address(asked.values)
        call.query_step, call.query_lower, call.query_constant = asked.step, asked.lower, asked.constant
    else:
        call.hamming = int(asked.dtype == torch.int32)
        call.query_rows = address(asked)
        call.query_sum, call.gain, call.offset = map(_address, (search.query_sum, search.gain, search.offset))
    if count:
        code = _run("recfx_search", call, level, threads)
        if code <= SearchResult.UNFIT_ROW and isinstance(asked, Rounding):
            raise asked.unfit(SearchResult.UNFIT_ROW - code)
    return ids


def rescore(
    rows: Tensor,
    queries: Tensor,
    shortlist: Tensor,
    k: int,
    *,
    affine: tuple[Tensor, Tensor, Tensor] | None = None,
    level: str | None = None,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores the items of a shortlist by other rows and keeps the k best.

    Args:
        rows: float32, float16 or uint8 [items, dim], contiguous.
        queries: float32 [Q, dim]; int8 above -128 where the rows are uint8.
        shortlist: int64 [Q, m], each an item or -1, none twice in a row.
        k: The number of items to keep, at least 1.
        affine: For uint8 rows scale and bias, float32 [items], and the sums of the queries, float32 [Q]:
            the value is `scale * product + bias * sum`.
        level: As in `scan`.
        threads: As in `scan`.

    Returns:
        As `scan`.

    Raises:
        TargetError: As in `scan`.
    """
    count = len(queries)
    values = torch.empty(count, k, dtype=torch.float32, device="cpu")
    ids = torch.empty(count, k, dtype=torch.int64, device="cpu")
    scale, bias, query_sum = affine if affine is not None else (None, None, None)
    call = Rescore(
        struct_bytes=ctypes.sizeof(Rescore),
        dim=rows.shape[1],
        queries=count,
        candidates=shortlist.shape[1],
        k=k,
        dtype=_ROW_DTYPES[rows.dtype],
        rows=address(rows),
        scale=_address(scale),
        bias=_address(bias),
        query_rows=address(queries),
        query_sum=_address(query_sum),
        shortlist=address(shortlist),
        scores=address(values),
        ids=address(ids),
    )
    if count:
        _run("recfx_rescore", call, level, threads)
    return values, ids


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else address(tensor)


def _run(name: str, call: ctypes.Structure, level: str | None, threads: int | None) -> int:
    chosen = level or search_level()
    code: int = library().calls[name](chosen.encode(), ctypes.byref(call), threads or torch.get_num_threads())
    if code == SearchResult.NO_LEVEL:
        known = ", ".join(library().search_levels)
        raise TargetError(f"searches cannot run at the level {chosen!r} here", hint=f"this processor runs {known}")
    if code == SearchResult.NO_MEMORY:
        raise TargetError("a search found no memory for its lists", hint="search fewer queries at once, or a smaller k")
    if code == SearchResult.OTHER_SOURCES:
        raise TargetError(_OTHER_SOURCES, hint=_REBUILD)
    return code
