"""Small implementations of models from papers, and of torch's own modules, to try dechaff on."""

from __future__ import annotations

from collections.abc import Mapping

from .blocks import TextModel
from .plain_torch import TorchAttention, TorchDecoder, TorchEncoder, TorchEncoderOfIds
from .relative_and_gated import GatedTransformerXL, LandmarkTransformer, MemoryDecoder
from .sequence_mixers import GatedAssociativeMemory, Primer, TransNormer
from .structured import (
    BiEncoder,
    Graphormer,
    LargeGraphTransformer,
    MemoryFormer,
    SplitEncodeAggregate,
    WideClassifier,
)

MODELS: Mapping[str, type[TextModel]] = {
    "transnormer": TransNormer,
    "gated-associative-memory": GatedAssociativeMemory,
    "primer": Primer,
    "gated-transformer-xl": GatedTransformerXL,
    "graphormer": Graphormer,
    "landmark": LandmarkTransformer,
    "memory-decoder": MemoryDecoder,
    "memoryformer": MemoryFormer,
    "wide-classifier": WideClassifier,
    "large-graph-transformer": LargeGraphTransformer,
    "bi-encoder": BiEncoder,
    "split-encode-aggregate": SplitEncodeAggregate,
    "torch-encoder": TorchEncoder,
    "torch-encoder-of-ids": TorchEncoderOfIds,
    "torch-decoder": TorchDecoder,
    "torch-attention": TorchAttention,
}
"""By name; each has ``example()``, which gives inputs and the axes of them that may vary."""
