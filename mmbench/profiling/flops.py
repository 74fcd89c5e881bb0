"""Floating-point operations of a forward pass, and which operations could not be counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmbench.torch_compat import FlopCounter, OpInterceptor, without_fused_transformer

#: Operations that are neither counted nor tagged as pointwise or view, and do next to no arithmetic. Reductions are
#: among them, since only lately torch tags those.
_CHEAP_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _local_scalar_dense _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _pack_padded_sequence _safe_softmax _softmax _thnn_fused_gru_cell
_thnn_fused_lstm_cell _to_copy _unsafe_view adaptive_max_pool2d adaptive_max_pool3d all amax amin aminmax any arange
argmax argmin avg_pool2d avg_pool3d bernoulli bernoulli_ bincount cat clone constant_pad_nd copy_ count_nonzero
cumprod cumsum embedding empty empty_like empty_strided eye fill_ flip full full_like gather hann_window index
index_add index_copy index_put index_put_ index_select linalg__powsum linalg_vector_norm linspace logsumexp
masked_fill masked_fill_ masked_scatter masked_select max max_pool2d_with_indices max_pool3d_with_indices mean min
nansum native_batch_norm native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full
new_ones new_zeros nonzero norm normal_ ones ones_like prod rand rand_like randint randn randn_like randperm
reflection_pad1d reflection_pad2d repeat replication_pad1d replication_pad2d resize_ roll scalar_tensor scatter
scatter_ scatter_add scatter_add_ set_ slice_scatter sort split_with_sizes_copy stack std std_mean sum topk transpose_
tril triu unbind uniform_ unsafe_split unsqueeze_ upsample_bilinear2d upsample_nearest1d upsample_nearest2d var
var_mean zero_ zeros zeros_like
"""
_CHEAP = frozenset(_CHEAP_NAMES.split())


@dataclass(frozen=True)
class Flops:
    """Operations of one run.

    Attributes:
        total: Of matrix products, convolutions, attention and recurrent layers; a multiply-add is two.
        uncounted: Names of operations that may do more arithmetic and were counted as none.
    """

    total: int
    uncounted: tuple[str, ...]


def count_flops(run: Callable[[], Any]) -> Flops:
    """Run something once and count.

    Torch's own formulas know neither recurrent kernels nor the CPU's attention kernel, so those are added; the fused
    transformer layer, which hides everything, is switched off meanwhile.

    Raises:
        ApiMissing: this version of torch cannot count them, see `mmbench.torch_compat.FLOP_COUNTER`.
    """
    counter = FlopCounter(_FORMULAS)
    uncounted = _Uncounted(counter.known)
    with torch.no_grad(), without_fused_transformer(), uncounted, counter:
        run()
    return Flops(counter.total, tuple(sorted(uncounted.names)))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Products of queries (..., Q, D) with keys (..., K, D), and of weights (..., Q, K) with values (..., K, E)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _onednn_recurrent(values: Sequence[int], *arguments: Any, **_: Any) -> int:
    """One layer and direction: `values` (T, B, I), then two weights, (4 H, I) and (4 H, H), and two biases."""
    weights: tuple[Sequence[int], ...] = arguments[:2]
    return 2 * math.prod(values[:-1]) * sum(math.prod(weight) for weight in weights)


def _cudnn_recurrent(values: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    """All layers and directions: every matrix meets every step once."""
    return 2 * math.prod(values[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


_FORMULAS: Mapping[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "mkldnn_rnn_layer": _onednn_recurrent,
    "_cudnn_rnn": _cudnn_recurrent,
}


class _Uncounted(OpInterceptor):
    """Collects the operations whose work the FLOP counter does not know: it has a formula for those in `known`."""

    def __init__(self, known: frozenset[Any]) -> None:
        self.known = known
        self.names: set[str] = set()

    def on_op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        packet = func.overloadpacket
        known = packet in self.known or func.is_view or torch.Tag.pointwise in func.tags
        if not known and not (func.namespace in ("aten", "prim") and packet.__name__ in _CHEAP):
            self.names.add(str(packet))
        return func(*args, **kwargs)
