"""The operators that a saved program may call: the dialect, and a list of torch's operators that captured models contain.

A file names operators by text, and loading looks up only listed operators. The listed operators of torch have no side effects, read no
file and no uninitialised memory, and check their indices and sizes. A user who loads a file may allow further operators by name.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch

from recfx.errors import ArtifactError

#: Operator of the dialect -> its definition in plain torch; `recfx.ops.library.define` adds the entries.
DIALECT: dict[Any, Callable[..., Any]] = {}

_ELEMENTWISE = """
abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
clamp_max clamp_min clip complex conj conj_physical copysign cos cosh deg2rad digamma div divide elu eq erf erfc
erfinv exp exp2 expm1 fake_quantize_per_channel_affine fake_quantize_per_tensor_affine fill fix float_power floor
floor_divide fmax fmin fmod frac frexp gcd i0 igamma igammac ge gelu glu greater greater_equal gt hardshrink
hardsigmoid hardswish hardtanh heaviside hypot imag isclose isfinite isin isinf isnan isneginf isposinf isreal lcm
ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and
logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply mvlgamma nan_to_num ne neg
negative nextafter not_equal polar polygamma positive pow prelu rad2deg real reciprocal relu relu6 remainder round
rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink special_bessel_j0
special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma special_entr special_erf special_erfc
special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc special_gammaincc
special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit
special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round special_sinc
special_xlog1py special_xlogy special_zeta sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy
__and__ __or__ __xor__ __lshift__ __rshift__ _prelu_kernel
"""

_REDUCTIONS = """
all allclose amax amin aminmax any argmax argmin argsort argwhere bincount bucketize corrcoef count_nonzero cov cummax
cummin cumprod cumsum cumulative_trapezoid diff dist equal frobenius_norm gradient histc histogram is_nonzero kthvalue
linalg_matrix_norm linalg_norm linalg_vector_norm logcumsumexp logsumexp max mean median min mode msort nanmean
nanmedian nanquantile nansum nonzero nonzero_numpy norm nuclear_norm prod quantile renorm searchsorted segment_reduce
sort special_logsumexp std std_mean sum topk trace trapezoid trapz unique_consecutive unique_dim var var_mean _unique
_unique2 _is_all_true _is_any_true
"""

_SHAPES = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat
channel_shuffle chunk clone column_stack combinations concat concatenate constant_pad_nd contiguous detach diag
diag_embed diagflat diagonal diagonal_scatter dsplit dstack expand expand_as flatten flip fliplr flipud hsplit hstack
im2col lift_fresh lift_fresh_copy matrix_H meshgrid movedim moveaxis mH mT narrow narrow_copy numpy_T pad permute
pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg roll rot90 row_stack
select select_copy select_scatter slice slice_copy slice_scatter split split_with_sizes squeeze stack sum_to_size
swapaxes swapdims t take_along_dim tensor_split tile to transpose tril tril_indices triu triu_indices type_as unbind
unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy view view_as
view_as_complex view_as_real view_copy vsplit vstack _conj _reshape_alias _to_copy _unsafe_view
"""

_CREATION = """
arange bartlett_window blackman_window eye full full_like hamming_window hann_window kaiser_window linspace logspace
new_full new_ones new_zeros one_hot ones ones_like range scalar_tensor vander zeros zeros_like
"""

_INDEXING = """
embedding embedding_bag gather index index_add index_copy index_fill index_put index_reduce index_select
masked_scatter masked_select nonzero_static put scatter scatter_add scatter_reduce take
"""

_PRODUCTS = """
addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul conv1d conv2d conv3d conv_tbc conv_transpose1d
conv_transpose2d conv_transpose3d convolution cosine_similarity cross dot einsum ger inner kron linalg_cross
linalg_matmul linalg_multi_dot linalg_vecdot linear matmul matrix_power mm mv outer pairwise_distance pdist tensordot
vdot _sparse_mm
"""

_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm
binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss dropout
feature_alpha_dropout feature_dropout grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell
hinge_embedding_loss huber_loss instance_norm kl_div l1_loss layer_norm log_softmax lstm lstm_cell margin_ranking_loss
max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d mse_loss multi_margin_loss
multilabel_margin_loss native_dropout native_layer_norm nll_loss nll_loss_nd pad_sequence poisson_nll_loss rms_norm
rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention smooth_l1_loss soft_margin_loss softmax
special_log_softmax special_softmax triplet_margin_loss upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d _adaptive_avg_pool2d _log_softmax _native_multi_head_attention _pack_padded_sequence
_pad_packed_sequence _scaled_dot_product_attention_math _softmax _transformer_encoder_layer_fwd _weight_norm
_adaptive_avg_pool3d _safe_softmax
"""

_ALGEBRA = """
cholesky cholesky_inverse cholesky_solve det fft_hfft2 fft_hfftn fft_ihfft2 fft_ihfftn inverse istft linalg_cholesky
linalg_cholesky_ex linalg_cond linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh
linalg_householder_product linalg_inv linalg_inv_ex linalg_lstsq linalg_lu linalg_lu_factor linalg_matrix_exp
linalg_matrix_power linalg_matrix_rank linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_ex
linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander logdet matrix_exp
pinverse fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn qr slogdet stft svd
triangular_solve
"""

_SIZES_AND_CHECKS = """
item sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_stride to_dense to_sparse _assert_async
_assert_scalar _assert_tensor_metadata _local_scalar_dense _to_dense
"""

_FAMILIES = (_ELEMENTWISE, _REDUCTIONS, _SHAPES, _CREATION, _INDEXING, _PRODUCTS, _LAYERS, _ALGEBRA, _SIZES_AND_CHECKS)

#: Names of torch's operators, without overloads.
ATEN = frozenset(name for family in _FAMILIES for name in family.split())

_FBGEMM = """
asynchronous_complete_cumsum asynchronous_exclusive_cumsum asynchronous_inclusive_cumsum
batched_dense_vec_jagged_2d_mul dense_to_jagged dense_to_jagged_forward expand_into_jagged_permute jagged_1d_to_dense
jagged_2d_to_dense jagged_dense_elementwise_add jagged_dense_elementwise_add_jagged_output
jagged_dense_elementwise_mul jagged_index_select jagged_softmax jagged_to_padded_dense jagged_to_padded_dense_forward
keyed_jagged_index_select_dim1 kt_regroup_arguments lengths_range masked_select_jagged_1d offsets_range
permute_1D_sparse_data permute_2D_sparse_data permute_multi_embedding permute_pooled_embs
permute_pooled_embs_auto_grad regroup_keyed_tensor segment_sum_csr
"""

_ARITHMETIC = """
getitem add sub mul floordiv truediv mod neg pow eq ne lt le gt ge and_ or_ not_ abs pos index xor invert
"""

_SYMBOLIC = """
sym_max sym_min sym_not sym_int sym_float sym_ite sym_sum _check _check_is_size
"""

#: Names of fbgemm's operators in TorchRec models. They are looked up only if the package is already imported.
FBGEMM = frozenset(_FBGEMM.split())

#: Operator that returns uninitialised memory -> operator that returns zeros, so that no memory of the process leaks.
_INITIALISED = {
    "aten.empty.memory_format": "aten.zeros.default",
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
}

#: Arithmetic on sizes, by the name that a file gives.
PYTHON: dict[str, Any] = {
    **{f"operator:{name}": getattr(operator, name) for name in _ARITHMETIC.split()},
    **{f"torch:{name}": getattr(torch, name) for name in _SYMBOLIC.split()},
    **{f"math:{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt", "log", "log2", "exp")},
}
_PYTHON_NAMES = {function: name for name, function in PYTHON.items()}


def name_of(target: Any, where: str) -> str:
    """The name by which `find` looks up an operator; an operator that returns uninitialised memory has the name of its replacement.

    Raises:
        ArtifactError: `target` is neither a registered operator nor arithmetic on sizes.
    """
    if isinstance(target, torch._ops.OpOverload):
        return f"op:{_INITIALISED.get(str(target), target)}"
    try:
        return _PYTHON_NAMES[target]
    except (KeyError, TypeError):
        raise ArtifactError(
            f"the operator {target} cannot be saved",
            where=where,
            hint="register it with torch.library, so that a file can name it",
        ) from None


def is_initialising(target: Any) -> bool:
    """Whether `name_of` replaces an operator by one that takes no memory format."""
    return str(target) in _INITIALISED and str(target) != "aten.empty_like.default"


def initialised(name: str) -> tuple[str, tuple[str, ...]]:
    """The name of the replacement of an operator that returns uninitialised memory, and the keyword arguments to drop for it."""
    kind, _, operator_name = name.partition(":")
    if kind != "op" or operator_name not in _INITIALISED:
        return name, ()
    dropped = () if operator_name == "aten.empty_like.default" else ("memory_format",)
    return f"op:{_INITIALISED[operator_name]}", dropped


def find(text: str, own: Collection[str] = ()) -> Any:
    """Looks up an operator by name.

    Args:
        text: A result of `name_of`: "op:aten.add.Tensor", "operator:mul".
        own: Further operators that the user allows: "mylib::score".

    Raises:
        ArtifactError: The operator is not allowed, or does not exist in this installation.
    """
    if text in PYTHON:
        return PYTHON[text]
    kind, _, name = text.partition(":")
    namespace, packet, overload = [*name.split("."), "", ""][:3]
    if kind != "op" or name != f"{namespace}.{packet}.{overload}":
        raise ArtifactError(f"{text[:200]!r} is not an operator")
    full = f"{namespace}::{packet}"
    if not _is_listed(namespace, packet, full, own):
        raise ArtifactError(
            f"the operator {full[:200]} is not one that saved models may call",
            hint=f'if you trust the folder and know the operator, pass operators=["{full[:200]}"] to recfx.load',
        )
    found = _overload(namespace, packet, overload)
    if found is None:
        raise ArtifactError(
            f"the operator {name[:200]} does not exist here",
            hint="import the package that defines it before loading",
        )
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in found._schema.arguments)
    if writes and full not in own:
        raise ArtifactError(
            f"the operator {name[:200]} writes to its arguments, which saved models may not do",
            hint=f'if you trust the folder and know the operator, pass operators=["{full[:200]}"] to recfx.load',
        )
    return found


def _is_listed(namespace: str, packet: str, full: str, own: Collection[str]) -> bool:
    if namespace == "aten":
        return packet in ATEN or full in own
    if namespace == "recfx":
        return any(full == op._schema.name for op in DIALECT)
    if namespace == "fbgemm":
        return (packet in FBGEMM and "fbgemm_gpu" in sys.modules) or full in own
    return full in own


def _overload(namespace: str, packet: str, overload: str) -> Any:
    """The overload of this name in torch's registry; None without one."""
    if not (namespace.isidentifier() and packet.isidentifier() and overload.isidentifier()):
        return None
    found = getattr(getattr(torch.ops, namespace), packet, None)
    if not isinstance(found, torch._ops.OpOverloadPacket) or overload not in found.overloads():
        return None
    return getattr(found, overload)
