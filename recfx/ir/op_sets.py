"""Sets of ATen operators that several packages use, each named after a common feature of its members.

A set describes its operators, not their uses. A caller that reads arguments must use a set whose members have these arguments at the same
positions: `SIZED_RESHAPES` to read the sizes, `RESHAPES` to read shapes from `meta["val"]` only.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

_aten = torch.ops.aten

# --- elements in the same order ---------------------------------------------------------------------------------------------------

#: Reshapes whose second argument is the list of sizes.
SIZED_RESHAPES: tuple[Any, ...] = (_aten.reshape.default, _aten.view.default, _aten._unsafe_view.default)

#: Operators whose second argument is the list of the result's sizes.
SIZED: tuple[Any, ...] = (*SIZED_RESHAPES, _aten.expand.default)

#: Reshapes that merge or divide dimensions; the first argument is the tensor.
RESHAPES: tuple[Any, ...] = (*SIZED_RESHAPES, _aten.flatten.using_ints)

#: Operators that remove dimensions of size one.
SQUEEZES: tuple[Any, ...] = (_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims)

#: Operators that return the elements of their first argument in the same order, in another shape.
REGROUPINGS: tuple[Any, ...] = (*RESHAPES, _aten.unflatten.int, _aten.unsqueeze.default, *SQUEEZES)

#: Operators that return their first argument unchanged, in the same or in new memory.
COPIES: tuple[Any, ...] = (_aten.contiguous.default, _aten.clone.default, _aten.alias.default, _aten.detach.default)

#: Conversions to another type; the type is an argument.
CASTS: tuple[Any, ...] = (_aten.to.dtype, _aten._to_copy.default)

# --- elements in another order, repeated, or selected -----------------------------------------------------------------------------

#: Exchanges of two dimensions; the dimensions are arguments.
TRANSPOSITIONS: tuple[Any, ...] = (_aten.transpose.int, _aten.swapaxes.default, _aten.swapdims.default)

#: Transpositions that conjugate complex numbers.
CONJUGATE_TRANSPOSES: tuple[Any, ...] = (_aten.mH.default, _aten.adjoint.default)

#: Exchanges of the last two dimensions.
MATRIX_TRANSPOSES: tuple[Any, ...] = (_aten.mT.default, *CONJUGATE_TRANSPOSES)

#: Reversals of the order of all dimensions; `t` takes tensors of at most two dimensions.
REVERSALS: tuple[Any, ...] = (_aten.t.default, _aten.numpy_T.default)

#: Moves of dimensions to other positions; the arguments are sources and destinations.
DIMENSION_MOVES: tuple[Any, ...] = (
    *(_aten.movedim.int, _aten.movedim.intlist),
    *(_aten.moveaxis.int, _aten.moveaxis.intlist),
)

#: Operators that put the dimensions of their first argument in another order.
PERMUTATIONS: tuple[Any, ...] = (
    _aten.permute.default,
    *(*TRANSPOSITIONS, *MATRIX_TRANSPOSES, *REVERSALS, *DIMENSION_MOVES),
)

#: Views that repeat dimensions of size one.
BROADCASTS: tuple[Any, ...] = (_aten.expand.default, _aten.expand_as.default)

#: Operators that repeat the elements of their first argument.
EXPANSIONS: tuple[Any, ...] = (*BROADCASTS, _aten.repeat.default)

#: Slices along one dimension; the second argument is the dimension.
SLICES: tuple[Any, ...] = (_aten.slice.Tensor, _aten.narrow.default)

#: Splits into parts of equal length; the second argument is the length, the third the dimension.
LENGTH_SPLITS: tuple[Any, ...] = (_aten.split.Tensor, _aten.unsafe_split.Tensor)

#: Splits into parts of equal length, except the last, by length or by number; the third argument is the dimension.
EQUAL_SPLITS: tuple[Any, ...] = (
    *(*LENGTH_SPLITS, _aten.chunk.default, _aten.unsafe_chunk.default),
    _aten.tensor_split.sections,
)

#: Splits into consecutive parts, of which each user reads one; the third argument is the dimension.
SPLITS: tuple[Any, ...] = (
    *(*EQUAL_SPLITS, _aten.tensor_split.indices),
    *(_aten.split_with_sizes.default, _aten.unsafe_split_with_sizes.default, _aten.split.sizes),
)

#: Operators whose result may share memory with their first argument, so that its strides depend on the argument's strides.
ALIASES: frozenset[Any] = frozenset(
    (
        *(*REGROUPINGS, *PERMUTATIONS, *BROADCASTS, *SLICES, *SPLITS, _aten.unbind.int),
        *(
            _aten.select.int,
            _aten.diagonal.default,
            _aten.contiguous.default,
            _aten.alias.default,
            _aten.detach.default,
        ),
        *(_aten.view_as.default, _aten.reshape_as.default, _aten.to.dtype, operator.getitem),
    )
)

#: Concatenations of a list of tensors; the second argument is the dimension.
JOINS: tuple[Any, ...] = (_aten.cat.default, _aten.stack.default)

# --- rows of tables ---------------------------------------------------------------------------------------------------------------

#: Embedding bags: table, ids and offsets come first.
EMBEDDING_BAGS: tuple[Any, ...] = (_aten.embedding_bag.default, _aten.embedding_bag.padding_idx)

#: Lookups of one row for each id, without sums.
ROW_LOOKUPS: tuple[Any, ...] = (_aten.embedding.default, _aten.index_select.default)

#: Lookups in tables of embeddings, with and without sums; the table and the ids come first.
TABLE_LOOKUPS: tuple[Any, ...] = (_aten.embedding.default, *EMBEDDING_BAGS)

# --- arithmetic -------------------------------------------------------------------------------------------------------------------

ADDITIONS: tuple[Any, ...] = (_aten.add.Tensor, _aten.sub.Tensor)
SCALINGS: tuple[Any, ...] = (_aten.mul.Tensor, _aten.div.Tensor)

#: Sums and means along dimensions; the second argument lists the dimensions.
POOLINGS: tuple[Any, ...] = (_aten.sum.dim_IntList, _aten.mean.dim)

#: Products of two matrices, or of two stacks of matrices.
MATRIX_PRODUCTS: tuple[Any, ...] = (_aten.matmul.default, _aten.bmm.default, _aten.mm.default)

#: Products of the second and the third argument, to which the first one is added.
ADDED_PRODUCTS: tuple[Any, ...] = (_aten.addmm.default, _aten.baddbmm.default)

#: Recurrent layers; the first argument is the sequence.
RECURRENT: tuple[Any, ...] = (_aten.gru.input, _aten.lstm.input, _aten.rnn_tanh.input, _aten.rnn_relu.input)

#: Forms of dropout with one result; they do nothing outside of training.
DROPOUTS: tuple[Any, ...] = (
    *(_aten.dropout.default, _aten.feature_dropout.default),
    *(_aten.alpha_dropout.default, _aten.feature_alpha_dropout.default),
)

# --- truth values -----------------------------------------------------------------------------------------------------------------

#: Negations of truth values; `bitwise_not` of integers is another operation.
NEGATIONS: tuple[Any, ...] = (_aten.logical_not.default, _aten.bitwise_not.default)
BITWISE_ANDS: tuple[Any, ...] = (_aten.bitwise_and.Tensor, _aten.__and__.Tensor)
BITWISE_ORS: tuple[Any, ...] = (_aten.bitwise_or.Tensor, _aten.__or__.Tensor)
MASKED_FILLS: tuple[Any, ...] = (_aten.masked_fill.Scalar, _aten.masked_fill.Tensor)

# --- constants --------------------------------------------------------------------------------------------------------------------

#: Tensors of zeros; the last argument lists the sizes.
ZEROS: tuple[Any, ...] = (_aten.zeros.default, _aten.new_zeros.default)

#: Constants of the shape of their first argument.
FILLS_LIKE: tuple[Any, ...] = (_aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default)
