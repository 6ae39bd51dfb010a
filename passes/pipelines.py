"""The only place where the order of passes is written."""

from __future__ import annotations

from .canonicalize import Canonicalize
from .convert_precision import ConvertPrecision
from .fold_attention_bias import FoldAttentionBias
from .fold_constants import FoldConstants
from .fuse_attention import FuseAttention
from .fuse_bias_gelu import FuseBiasGelu
from .fuse_gelu import FuseGelu
from .fuse_layer_normalization import FuseLayerNormalization
from .fuse_skip_normalization import FuseSkipNormalization
from .merge_qkv import MergeQkv
from .pass_base import Pass
from .remove_padding import RemovePadding

PASSES: tuple[type[Pass], ...] = (
    Canonicalize,
    FoldConstants,
    FuseGelu,
    FuseLayerNormalization,
    FuseAttention,
    RemovePadding,
    MergeQkv,
    FoldAttentionBias,
    FuseSkipNormalization,
    FuseBiasGelu,
    ConvertPrecision,
)
"""Every pass there is. A new pass is one line here, and one in a pipeline if it is a default."""

PIPELINES: dict[str, tuple[type[Pass], ...]] = {
    "none": (),
    "default": (
        Canonicalize,
        FoldConstants,
        FuseGelu,
        FuseLayerNormalization,
        FuseAttention,
        RemovePadding,
        FoldAttentionBias,
        FuseSkipNormalization,
        FuseBiasGelu,
    ),
}
"""Named lists of passes. ``default`` keeps the answers: exact and reassociating passes only.

``merge-qkv`` is not in it: on CPU three products are as fast as one, and the split of the one costs
what the two kernel starts saved.
"""
