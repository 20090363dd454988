"""Operators with the axes of each operand, for the tests of the table of axes."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten
T = tuple[int, ...]


def t(*shape: int) -> T:
    """A tensor among the arguments, by its shape."""
    return ("t", *shape)  # type: ignore[return-value]


def ids(*shape: int) -> T:
    return ("ids", *shape)  # type: ignore[return-value]


def recurrent(gates: int) -> list[T]:
    """The weights of a recurrent layer with 4 inputs and 5 outputs."""
    return [t(gates * 5, 4), t(gates * 5, 5), t(gates * 5), t(gates * 5)]


#: The axes of a GRU whose first axis is the batch.
RECURRENT = ["0!!", "1!!", *["!!!"] * 4]

#: Operator, arguments, and the axes of each operand for each axis of the result: one letter per axis, `*` for WHOLE,
#: `!` for MIXED.
CASES: dict[str, tuple[Any, tuple[Any, ...], list[str]]] = {
    "add": (aten.add.Tensor, (t(2, 3, 4), t(3, 4)), ["012", "*01"]),
    "add, broadcast": (aten.add.Tensor, (t(2, 3, 4), t(2, 1, 4)), ["012", "0*2"]),
    "where": (aten.where.self, (("bool", 3, 1), t(2, 3, 4), t(4)), ["*0*", "012", "**0"]),
    "where of two numbers": (aten.where.Scalar, (("bool", 2, 3), 1.0, 0.5), ["01"]),
    "where of a number otherwise": (aten.where.ScalarOther, (("bool", 3, 1), t(2, 3, 4), 0.5), ["*0*", "012"]),
    "where of a number": (aten.where.ScalarSelf, (("bool", 2, 3), 0.5, t(3)), ["01", "*0"]),
    "masked_fill": (aten.masked_fill.Scalar, (t(2, 3), ("bool", 2, 3), 0.5), ["01", "01"]),
    "relu": (aten.relu.default, (t(2, 3),), ["01"]),
    "to": (aten.to.dtype, (t(2, 3), torch.float64), ["01"]),
    "view in another dtype": (aten.view.dtype, (t(2, 3, 4), torch.int32), ["01!"]),
    "view in a wider dtype": (aten.view.dtype, (t(2, 3, 4), torch.int64), ["01!"]),
    "expand": (aten.expand.default, (t(3, 1), [2, 3, 4]), ["*0*"]),
    "expand_as": (aten.expand_as.default, (t(3, 1), t(2, 3, 4)), ["*0*", "012"]),
    "repeat": (aten.repeat.default, (t(3, 1), [2, 1, 4]), ["*0*"]),
    "repeat of an axis": (aten.repeat.default, (t(3, 4), [2, 1]), ["!1"]),
    "unsqueeze": (aten.unsqueeze.default, (t(2, 3), 1), ["0*1"]),
    "unsqueeze at the end": (aten.unsqueeze.default, (t(2, 3), -1), ["01*"]),
    "squeeze": (aten.squeeze.default, (t(2, 1, 3, 1),), ["02"]),
    "squeeze of one": (aten.squeeze.dim, (t(2, 1, 3, 1), 1), ["023"]),
    "squeeze of nothing": (aten.squeeze.dim, (t(2, 1, 3), 0), ["012"]),
    "squeeze of two": (aten.squeeze.dims, (t(2, 1, 3, 1), [1, -1]), ["02"]),
    "permute": (aten.permute.default, (t(2, 3, 4), [2, 0, -2]), ["201"]),
    "transpose": (aten.transpose.int, (t(2, 3, 4), 0, -1), ["210"]),
    "swapaxes": (aten.swapaxes.default, (t(2, 3, 4), 0, 1), ["102"]),
    "swapdims": (aten.swapdims.default, (t(2, 3, 4), 1, 2), ["021"]),
    "t": (aten.t.default, (t(2, 3),), ["10"]),
    "t of a vector": (aten.t.default, (t(3),), ["0"]),
    "mT": (aten.mT.default, (t(2, 3, 4),), ["021"]),
    "numpy_T": (aten.numpy_T.default, (t(2, 3, 4),), ["210"]),
    "movedim": (aten.movedim.int, (t(2, 3, 4), 0, 2), ["120"]),
    "mH": (aten.mH.default, (t(2, 3, 4),), ["021"]),
    "moveaxis": (aten.moveaxis.int, (t(2, 3, 4), -1, 0), ["201"]),
    "movedim of several": (aten.movedim.intlist, (t(2, 3, 4, 5), [0, 3], [2, 0]), ["3102"]),
    "sum": (aten.sum.dim_IntList, (t(2, 3, 4), [1]), ["02"]),
    "sum, kept": (aten.sum.dim_IntList, (t(2, 3, 4), [-1], True), ["01!"]),
    "sum of two": (aten.sum.dim_IntList, (t(2, 3, 4), [0, 2]), ["1"]),
    "mean": (aten.mean.dim, (t(2, 3, 4), [0]), ["12"]),
    "amax": (aten.amax.default, (t(2, 3, 4), [2]), ["01"]),
    "max": (aten.max.dim, (t(2, 3, 4), 1), ["02"]),
    "var": (aten.var.correction, (t(2, 3, 4), [1]), ["02"]),
    "norm": (aten.linalg_vector_norm.default, (t(2, 3, 4), 2, [1]), ["02"]),
    "softmax": (aten.softmax.int, (t(2, 3), 1), ["0!"]),
    "cumsum": (aten.cumsum.default, (t(2, 3), 0), ["!1"]),
    "flip": (aten.flip.default, (t(2, 3, 4), [1]), ["0!2"]),
    "roll": (aten.roll.default, (t(2, 3, 4), [1], [1]), ["0!2"]),
    "sort": (aten.sort.default, (t(2, 3),), ["0!"]),
    "topk": (aten.topk.default, (t(3, 4), 2), ["0!"]),
    "glu": (aten.glu.default, (t(2, 4),), ["0!"]),
    "select": (aten.select.int, (t(2, 3, 4), 1, 0), ["02"]),
    "slice": (aten.slice.Tensor, (t(2, 3, 4), 1, 1, 3), ["0!2"]),
    "narrow": (aten.narrow.default, (t(2, 3, 4), 0, 0, 2), ["!12"]),
    "unbind": (aten.unbind.int, (t(2, 3, 4), 1), ["02"]),
    "split": (aten.split.Tensor, (t(2, 4), 2, 1), ["0!"]),
    "chunk": (aten.chunk.default, (t(2, 4), 2, -1), ["0!"]),
    "tensor_split": (aten.tensor_split.indices, (t(2, 4), [1], 1), ["0!"]),
    "cat": (aten.cat.default, ([t(2, 3), t(2, 4)], 1), ["0!", "0!"]),
    "stack": (aten.stack.default, ([t(2, 3), t(2, 3)], 1), ["0!1", "0!1"]),
    "stack at the end": (aten.stack.default, ([t(2, 3), t(2, 3)], -1), ["01!", "01!"]),
    "layer_norm": (aten.layer_norm.default, (t(2, 3, 4), [4], t(4), t(4)), ["01!", "**0", "**0"]),
    "batch_norm": (
        aten.batch_norm.default,
        (t(2, 3), t(3), t(3), t(3), ("positive", 3), False, 0.1, 1e-5, False),
        ["01", *["*0"] * 4],
    ),
    "prelu": (aten.prelu.default, (t(2, 3, 4), t(3)), ["012", "*0*"]),
    "prelu of one": (aten.prelu.default, (t(2, 3, 4), t(1)), ["012", "***"]),
    "dropout": (aten.dropout.default, (t(2, 3), 0.5, False), ["01"]),
    "linear": (aten.linear.default, (t(2, 3, 4), t(5, 4), t(5)), ["01*", "**0", "**0"]),
    "mm": (aten.mm.default, (t(2, 3), t(3, 4)), ["0*", "*1"]),
    "bmm": (aten.bmm.default, (t(2, 3, 4), t(2, 4, 5)), ["01*", "0*2"]),
    "matmul": (aten.matmul.default, (t(6, 2, 3, 4), t(2, 4, 5)), ["012*", "*0*2"]),
    "matmul, broadcast": (aten.matmul.default, (t(3, 4), t(2, 4, 5)), ["*0*", "0*2"]),
    "matmul of a vector": (aten.matmul.default, (t(2, 3, 4), t(4)), ["01", "**"]),
    "vector times": (aten.matmul.default, (t(4), t(2, 4, 5)), ["**", "02"]),
    "addmm": (aten.addmm.default, (t(4), t(2, 3), t(3, 4)), ["*0", "0*", "*1"]),
    "baddbmm": (aten.baddbmm.default, (t(2, 1, 5), t(2, 3, 4), t(2, 4, 5)), ["0*2", "01*", "0*2"]),
    "attention": (
        aten.scaled_dot_product_attention.default,
        (t(2, 6, 3, 4), t(2, 6, 5, 4), t(2, 6, 5, 7), ("bool+", 3, 5)),
        ["012*", "01**", "01*3", "**0*"],
    ),
    "embedding": (aten.embedding.default, (t(9, 4), ids(2, 3)), ["**1", "01*"]),
    "one_hot": (aten.one_hot.default, (ids(2, 3), 9), ["01!"]),
    "gather": (aten.gather.default, (t(2, 9, 3), 1, ids(2, 4, 3)), ["0*2", "012"]),
    "index": (aten.index.Tensor, (t(2, 9, 3), [None, ids(5)]), ["0*2", "*0*"]),
    "index by two": (aten.index.Tensor, (t(9, 9, 3), [ids(5, 1), ids(4)]), ["**2", "0**", "*0*"]),
    "index by a mask": (aten.index.Tensor, (t(2, 3, 4, 5), [None, ("bool", 3, 4)]), ["0*3", "*!*"]),
    "index apart": (aten.index.Tensor, (t(9, 2, 9), [ids(5), None, ids(5)]), ["!!", "!!", "!!"]),
    "index_select": (aten.index_select.default, (t(2, 9, 3), 1, ids(5)), ["0*2", "*0*"]),
    "einsum": (aten.einsum.default, ("bhd,hde->bhe", [t(2, 3, 4), t(3, 4, 5)]), ["01*", "*02"]),
    "einsum of a diagonal": (aten.einsum.default, ("bb,bd->bd", [t(3, 3), t(3, 4)]), ["!*", "01"]),
    "zeros_like": (aten.zeros_like.default, (t(2, 3),), ["01"]),
    **{
        f"{target}": (target, (t(2, 3), *arguments), ["01"])
        for target, arguments in {
            aten.to.device: (torch.device("cpu"), torch.float64),
            aten.to.dtype_layout: (),
            aten._to_copy.default: (),
            aten.contiguous.default: (),
            aten.clone.default: (),
            aten.alias.default: (),
            aten.detach.default: (),
            aten.lift_fresh_copy.default: (),
            aten.ones_like.default: (),
            aten.full_like.default: (2.5,),
            aten.log_sigmoid.default: (),
            aten.feature_dropout.default: (0.5, False),
            aten.alpha_dropout.default: (0.5, False),
            aten.feature_alpha_dropout.default: (0.5, False),
        }.items()
    },
    **{
        f"{target}": (target, (("bool", 2, 3), ("bool", 2, 1)), ["01", "0*"])
        for target in (aten.__and__.Tensor, aten.__or__.Tensor, aten.__xor__.Tensor)
    },
    "type_as": (aten.type_as.default, (t(2, 3), t(2, 3)), ["01", "01"]),
    "masked_fill of a tensor": (aten.masked_fill.Tensor, (t(2, 3), ("bool", 3), t()), ["01", "*0", "**"]),
    "unflatten": (aten.unflatten.int, (t(2, 12, 5), 1, [3, -1]), ["01!2"]),
    "reshape": (aten.reshape.default, (t(4, 3, 5), [4, 15]), ["01"]),
    "reshape of rows": (aten.reshape.default, (t(4, 3, 5), [12, 5]), ["02"]),
    "view": (aten.view.default, (t(4, 15), [4, 3, 5]), ["01!"]),
    "view with an axis of one": (aten._unsafe_view.default, (t(4, 6), [4, 1, 6]), ["011"]),
    "flatten": (aten.flatten.using_ints, (t(4, 3, 5), 1), ["01"]),
    "amin": (aten.amin.default, (t(2, 3, 4), [0], True), ["!12"]),
    "min": (aten.min.dim, (t(2, 3, 4), -1), ["01"]),
    "prod": (aten.prod.dim_int, (t(2, 3, 4), 0), ["12"]),
    "any": (aten.any.dim, (("bool", 2, 3, 4), 1), ["02"]),
    "all": (aten.all.dim, (("bool", 2, 3, 4), 1, True), ["0!2"]),
    "argmax": (aten.argmax.default, (t(2, 3), 1), ["0"]),
    "argmin, kept": (aten.argmin.default, (t(2, 3), 0, True), ["!1"]),
    "std": (aten.std.correction, (t(2, 3, 4), [2]), ["01"]),
    "logsumexp": (aten.logsumexp.default, (t(2, 3, 4), [1, 2]), ["0"]),
    "log_softmax": (aten.log_softmax.int, (t(2, 3), 0), ["!1"]),
    "_softmax": (aten._softmax.default, (t(2, 3), -1, False), ["0!"]),
    "cumprod": (aten.cumprod.default, (t(2, 3), 1), ["0!"]),
    "argsort": (aten.argsort.default, (t(2, 3), 0), ["!1"]),
    "norm of axes": (aten.norm.ScalarOpt_dim, (t(2, 3, 4), 2, [0]), ["12"]),
    "rms_norm": (aten.rms_norm.default, (t(2, 3, 4), [3, 4], t(3, 4)), ["0!!", "*01"]),
    "gru": (aten.gru.input, (t(2, 3, 4), t(1, 2, 5), recurrent(3), True, 1, 0.0, False, False, True), RECURRENT),
    "lstm": (
        aten.lstm.input,
        (t(3, 2, 4), [t(1, 2, 5), t(1, 2, 5)], recurrent(4), True, 1, 0.0, False, False, False),
        ["!1!", "!1!", "!1!", *["!!!"] * 4],
    ),
    **{f"{target}": (target, ([2, 3],), []) for target in (aten.zeros.default, aten.ones.default)},
    "full": (aten.full.default, ([2, 3], 1.5), []),
    "new_full": (aten.new_full.default, (t(2, 3), [4, 5], 1.5), ["**"]),
    "new_zeros": (aten.new_zeros.default, (t(2, 3), [4, 5]), ["**"]),
    "new_ones": (aten.new_ones.default, (t(2, 3), [4, 5]), ["**"]),
    "adjoint": (aten.adjoint.default, (t(2, 3, 4),), ["021"]),
    "moveaxis of several": (aten.moveaxis.intlist, (t(2, 3, 4), [0, 1], [-1, 0]), ["120"]),
    "unsafe_split": (aten.unsafe_split.Tensor, (t(2, 4), 2, 0), ["!1"]),
    "unsafe_chunk": (aten.unsafe_chunk.default, (t(2, 4), 2, 1), ["0!"]),
    "tensor_split into two": (aten.tensor_split.sections, (t(2, 4), 2), ["!1"]),
    "split_with_sizes": (aten.split_with_sizes.default, (t(2, 4), [1, 3], -1), ["0!"]),
    "unsafe_split_with_sizes": (aten.unsafe_split_with_sizes.default, (t(2, 4), [1, 1]), ["!1"]),
    "split into sizes": (aten.split.sizes, (t(2, 4), [3, 1], 1), ["0!"]),
}
