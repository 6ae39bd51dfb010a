"""The only place where the order of passes is written."""

from __future__ import annotations

from .canonicalize import Canonicalize
from .convert_precision import ConvertPrecision
from .early_exit import EarlyExit
from .fold_attention_bias import FoldAttentionBias
from .fold_constants import FoldConstants
from .freeze_tokens import FreezeTokens
from .fuse_attention import FuseAttention
from .fuse_bias_gelu import FuseBiasGelu
from .fuse_gelu import FuseGelu
from .fuse_layer_normalization import FuseLayerNormalization
from .fuse_skip_normalization import FuseSkipNormalization
from .hard_attention import HardAttention
from .lower_einsum import LowerEinsum
from .merge_qkv import MergeQkv
from .pass_base import Pass
from .prune import Prune
from .quantize_blockwise import QuantizeBlockwise
from .quantize_dynamic import QuantizeDynamic
from .quantize_static import QuantizeStatic
from .quantize_weights import QuantizeWeights
from .remove_padding import RemovePadding
from .skip_unread_rows import SkipUnreadRows
from .trim_vocabulary import TrimVocabulary

PASSES: tuple[type[Pass], ...] = (
    Canonicalize,
    LowerEinsum,
    FoldConstants,
    FuseGelu,
    FuseLayerNormalization,
    FuseAttention,
    FreezeTokens,
    Prune,
    TrimVocabulary,
    RemovePadding,
    MergeQkv,
    FoldAttentionBias,
    HardAttention,
    EarlyExit,
    FuseSkipNormalization,
    FuseBiasGelu,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    QuantizeBlockwise,
    ConvertPrecision,
    SkipUnreadRows,
)
"""Every pass there is. A new pass is one line here, and one in a pipeline if it is a default."""

_DEFAULT: tuple[type[Pass], ...] = (
    Canonicalize,
    LowerEinsum,
    FoldConstants,
    FuseGelu,
    FuseLayerNormalization,
    FuseAttention,
    RemovePadding,
    FoldAttentionBias,
    FuseSkipNormalization,
    FuseBiasGelu,
    SkipUnreadRows,
)
_SEARCHED: tuple[type[Pass], ...] = (FreezeTokens, Prune, EarlyExit)
"""Passes that do nothing, or nothing that shows, until a search gives them options."""

PIPELINES: dict[str, tuple[type[Pass], ...]] = {
    "none": (),
    "default": _DEFAULT,
    "approximate": tuple(step for step in PASSES if step in _DEFAULT or step in _SEARCHED),
    "shrink": tuple(step for step in PASSES if step in (*_DEFAULT, FreezeTokens, Prune)),
    "compress": (
        *(step for step in PASSES if step in (*_DEFAULT[:-1], FreezeTokens, Prune)),
        QuantizeDynamic,
        EarlyExit,
        SkipUnreadRows,
    ),
}
"""Named lists of passes. ``default`` keeps the answers: exact and reassociating passes only.
``approximate`` adds, each in its place, the passes that a search over the user's metric drives;
``shrink`` those that leave a graph without branches, whose time is the same for every row;
``compress`` adds 8-bit products, before the exits, behind which layers are in branches.

``merge-qkv`` is in none: on CPU three products are as fast as one, and the split of the one
costs what the two kernel starts saved.
"""
