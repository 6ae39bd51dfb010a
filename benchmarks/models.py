"""The models under test: Hugging Face architectures, random weights the same in every run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .exports import quiet

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
        is_trained: whether its weights are real ones.
    """

    build: Callable[[dict[str, Any]], torch.nn.Module]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layers_field: str = "num_hidden_layers"
    is_trained: bool = False


def _bert(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    model: torch.nn.Module = BertModel(BertConfig(**fields))
    return model


def _distilbert(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    model: torch.nn.Module = DistilBertModel(DistilBertConfig(**fields))
    return model


def _minilm(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import AutoModel

    from examples.sentence_embeddings import weights_folder

    with quiet():
        model: torch.nn.Module = AutoModel.from_pretrained(weights_folder(), **fields)
    return model


def _modernbert(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import ModernBertConfig, ModernBertModel

    model: torch.nn.Module = ModernBertModel(ModernBertConfig(**fields))
    return model


def _llama(fields: dict[str, Any]) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaModel

    model: torch.nn.Module = LlamaModel(LlamaConfig(**fields, use_cache=False))
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
    "minilm": Architecture(_minilm, is_trained=True),
    "modernbert": Architecture(_modernbert),
    # A decoder reading its prompts: causal, rotary, grouped keys and values.
    "llama": Architecture(
        _llama,
        {
            "vocab_size": 32000,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "intermediate_size": 2048,
        },
    ),
    # For the cost of optimizing: deep at little weight, and more than 2 GB at few layers.
    "bert-narrow": Architecture(
        _bert,
        {
            "vocab_size": 1000,
            "hidden_size": 128,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
    ),
    "bert-wide": Architecture(
        _bert,
        {
            "vocab_size": 1000,
            "hidden_size": 2560,
            "num_hidden_layers": 8,
            "num_attention_heads": 20,
            "intermediate_size": 10240,
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
    """A model in evaluation mode, its random weights seeded.

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
    if architecture.is_trained:
        return model
    # Untrained biases are 0 and scales 1: without noise a rewrite that loses one would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_PARAMETER_NOISE)
    return model


class ModelUnderTest:
    """A model by name; it is built when its module is first asked for, which takes torch.

    Attributes:
        name: one of ``ARCHITECTURES``.
        layers: number of layers; the architecture's own if None.
    """

    def __init__(self, name: str, layers: int | None = None) -> None:
        self.name = name
        self.layers = layers

    @functools.cached_property
    def module(self) -> torch.nn.Module:
        """The torch module, in evaluation mode."""
        return build_model(self.name, self.layers)

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        config: Any = self.module.config
        return int(config.vocab_size)
