"""Cases of lookups and other reads at computed places, and of operators that few models use."""

from __future__ import annotations

import torch
from conformance_kit import Call, Constant, Input, Size
from conformance_operands import COLUMN, CUBE, FLAG, ID_ROWS, IDS, PICKS, SHORT_IDS, X, Y, case, numbers, weights

_aten = torch.ops.aten

# Lookups, and other reads at computed places.
_TABLE = weights(7, 5)
case(_aten.embedding.default, _TABLE, IDS)
case(_aten.embedding.default, _TABLE, ID_ROWS)
case(_aten.embedding.default, _TABLE, SHORT_IDS)
case(_aten.embedding.default, _TABLE, ID_ROWS, 0)
case(_aten.embedding.default, weights(3, 1), PICKS)
_OFFSETS = Input("offsets", ("batch",), torch.int64)
_IDS_OF_BAGS = Input("bag_ids", ("3*batch",), torch.int64)
for _mode in (0, 1):
    case(
        _aten.embedding_bag.padding_idx,
        _TABLE,
        _IDS_OF_BAGS,
        _OFFSETS,
        False,
        _mode,
        False,
        None,
        False,
        None,
        sums=True,
    )
    case(
        _aten.embedding_bag.padding_idx, _TABLE, _IDS_OF_BAGS, _OFFSETS, False, _mode, False, None, False, 2, sums=True
    )
# Bags of one length.
_EQUAL = Call(_aten.arange.start_step, (0, Size(_IDS_OF_BAGS, 0), 3))
_FACTORS = Input("factors", ("3*batch",))
for _mode, _factors, _padding in ((0, None, None), (0, _FACTORS, None), (0, None, 2), (1, None, None), (1, None, 0)):
    _options = (False, _mode, False, _factors, False, _padding)
    case(_aten.embedding_bag.padding_idx, _TABLE, _IDS_OF_BAGS, _EQUAL, *_options, sums=True)
case(_aten.index_select.default, _TABLE, 0, IDS)
case(_aten.index_select.default, CUBE, 1, numbers([0, 3, 1]))
case(_aten.index.Tensor, CUBE, [None, numbers([2, 0])])
case(_aten.index.Tensor, _TABLE, [IDS])
case(_aten.gather.default, _TABLE, 0, Input("row_ids", ("batch", 5), torch.int64))
case(_aten.gather.default, CUBE, 1, PICKS)
case(_aten.index_put.default, weights(7, 5), [numbers([1, 3])], weights(2, 5))
case(_aten.scatter_add.default, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6))
case(_aten.one_hot.default, IDS, 7)
case(_aten.bucketize.Tensor, X, numbers([-1.0, 0.0, 0.5], torch.float32))
case(_aten.scatter.src, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6))
case(_aten.scatter.value, CUBE, 1, numbers([[[0, 1, 2, 3, 0, 1]]]), 0.5)
case(_aten.scatter_reduce.two, weights(4, 6), 0, numbers([[0, 1, 2, 3, 0, 1]]), weights(1, 6), "amax")
case(_aten.select_scatter.default, CUBE, Y, 1, 2)
case(_aten.diagonal_scatter.default, weights(4, 4), weights(4))
case(_aten._sparse_mm.default, Constant(torch.eye(4).to_sparse()), weights(4, 6), sums=True)

# Other operators of other libraries' models.
_COMPLEX = Call(_aten.fft_rfft.default, (X, None, 1))
case(_aten.fft_rfft.default, X, None, 1, sums=True)
case(_aten.fft_irfft.default, _COMPLEX, 6, 1, sums=True)
case(_aten.fft_fftn.default, X, None, [1], sums=True)
case(_aten.real.default, _COMPLEX, sums=True)
case(_aten._conj.default, _COMPLEX, sums=True)
case(_aten.view_as_complex.default, Input("pairs", ("batch", 3, 2)))
case(_aten.glu.default, X, 1)
case(
    _aten.gru_cell.default,
    X,
    Input("h", ("batch", 4)),
    weights(12, 6),
    weights(12, 4),
    weights(12),
    weights(12),
    sums=True,
)
case(_aten.max.other, X, Y)
case(_aten.min.other, X, COLUMN)
case(_aten.argmin.default, X, 1)
case(_aten.where.Scalar, FLAG, 1.0, 0.0)
case(_aten.ones.default, [Size(X, 0), 2])
case(_aten.eye.default, 4)
case(_aten.tril_indices.default, 4, 4, -1)
case(_aten.arange.start, 1, Size(X, 0, 2))
case(_aten.to.device, X, torch.device("cpu"), torch.float32)
case(_aten.type_as.default, ID_ROWS, X)
