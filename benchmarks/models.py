"""The models under test: Hugging Face architectures with random weights, the same in every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SEED = 20
_PARAMETER_NOISE = 0.02


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of model and its sizes.

    Attributes:
        build: makes the untrained model from its configuration's fields.
        sizes: the fields that differ from the library's defaults.
        layers_field: the field that holds the number of layers.
    """

    build: Callable[[dict[str, Any]], torch.nn.Module]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layers_field: str = "num_hidden_layers"


def _bert(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    model: torch.nn.Module = BertModel(BertConfig(**fields))
    return model


def _distilbert(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    model: torch.nn.Module = DistilBertModel(DistilBertConfig(**fields))
    return model


ARCHITECTURES: dict[str, Architecture] = {
    "bert-base": Architecture(_bert),
    "bert-large": Architecture(
        _bert,
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    ),
    "distilbert": Architecture(_distilbert, layers_field="n_layers"),
    "minilm": Architecture(
        _bert,
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
    ),
    "tiny": Architecture(
        _bert,
        {
            "vocab_size": 500,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        },
    ),
}
"""Models by the name that ``--model`` takes. All take ``input_ids`` and ``attention_mask``."""


def build_model(name: str, layers: int | None = None) -> torch.nn.Module:
    """A model with seeded random weights, in evaluation mode.

    Args:
        name: one of ``ARCHITECTURES``.
        layers: number of layers; the architecture's own if None.
    """
    import torch

    architecture = ARCHITECTURES[name]
    fields: dict[str, Any] = dict(architecture.sizes)
    if layers is not None:
        fields[architecture.layers_field] = layers
    torch.manual_seed(_SEED)
    model = architecture.build(fields).eval()
    # Untrained biases are 0 and scales 1: without noise a rewrite that loses one would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_PARAMETER_NOISE)
    return model


def vocabulary_size(model: torch.nn.Module) -> int:
    """How many token ids the model knows."""
    config: Any = model.config
    return int(config.vocab_size)
