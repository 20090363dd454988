"""Cases of operators of booleans alone. Several libraries have them for numbers only, and say so when they compile or never."""

from __future__ import annotations

import torch
from conformance_kit import Input
from conformance_operands import CUBE_FLAG, FLAG, X, case, numbers

_aten = torch.ops.aten

FLAG_2 = Input("flag2", ("batch", 6), torch.bool)
for _name in ["div", "eq", "ne", "gt", "ge", "lt", "le", "bitwise_xor"]:
    case(getattr(_aten, _name).Tensor, FLAG, FLAG_2)
case(_aten.fmax.default, FLAG, FLAG_2)
for _name in ["sign", "isnan"]:
    case(getattr(_aten, _name).default, FLAG)
for _name in ["amax", "amin", "flip"]:
    case(getattr(_aten, _name).default, FLAG, [1])
for _name in ["any", "all"]:
    case(getattr(_aten, _name).dim, FLAG, 1)
    case(getattr(_aten, _name).dim, X, 1, True)
case(_aten.max.dim, FLAG, 1)
case(_aten.eq.Scalar, FLAG, 1)
case(_aten.gt.Scalar, FLAG, 0)
case(_aten.where.self, FLAG, FLAG_2, FLAG)
case(_aten.masked_fill.Scalar, FLAG, FLAG_2, False)
case(_aten.cat.default, [FLAG, FLAG_2], 1)
case(_aten.constant_pad_nd.default, FLAG, [0, 1])
case(_aten.sum.dim_IntList, FLAG, [1])
case(_aten.cumsum.default, FLAG, 1)
case(_aten.tril.default, CUBE_FLAG)
case(_aten.stack.default, [FLAG, FLAG_2], 1)
case(_aten.expand.default, Input("rows", ("batch", 4, 1), torch.bool), [-1, -1, 3])
case(_aten.index_select.default, FLAG, 1, numbers([0, 2]))
