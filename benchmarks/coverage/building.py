"""Builds a family's model and the inputs that it is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import LAYERS, Family

if TYPE_CHECKING:
    import torch

_SEED = 20
_NOISE = 0.02
_BATCH, _LENGTH, _PAST = 3, 11, 5

Inputs = dict[str, Any]
Axes = dict[str, dict[int, str]]
"""Which axes of an input may vary, by name."""


def build_model(family: Family) -> torch.nn.Module:
    """The model with seeded random weights, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModel

    config: Any = AutoConfig.for_model(family.model_type, **family.sizes)
    if hasattr(config, "use_cache"):
        config.use_cache = family.kind == "decoder step"
    torch.manual_seed(_SEED)
    if getattr(config, "architectures", 0) is None:
        config.architectures = []  # what transformers expects of some older families
    model: torch.nn.Module = AutoModel.from_config(config).eval()
    # Untrained biases are 0 and scales 1: without noise a rewrite that loses one would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_NOISE)
    return _one_step(model) if family.kind == "decoder step" else model


def _one_step(model: torch.nn.Module) -> torch.nn.Module:
    """The model as a function of plain tensors: past keys and values in, new ones out."""
    import torch
    from transformers import DynamicCache

    class OneStep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            past_keys: torch.Tensor,
            past_values: torch.Tensor,
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            past = DynamicCache()
            for layer in range(LAYERS):
                past.update(past_keys[layer], past_values[layer], layer)
            result = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=past
            )
            layers = result.past_key_values.layers
            keys = torch.stack([layer.keys for layer in layers])
            values = torch.stack([layer.values for layer in layers])
            return result.last_hidden_state, keys, values

    return OneStep().eval()


def example_inputs(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    """Ragged inputs of the family's kind, and the axes that may vary."""
    kinds = {
        "encoder": _text,
        "decoder": _text,
        "decoder step": _step,
        "encoder-decoder": _two_texts,
        "vision": _image,
        "audio": _audio,
        "image and text": _image_and_text,
    }
    return kinds[family.kind](family, model)


def _tokens(sequence: str = "sequence", length: int = _LENGTH) -> tuple[Any, Any, dict[int, str]]:
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(5, 400, (_BATCH, length), generator=generator)
    mask = torch.ones(_BATCH, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0
    return ids, mask, {0: "batch", 1: sequence}


def _text(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    ids, mask, axes = _tokens()
    return {"input_ids": ids, "attention_mask": mask}, {"input_ids": axes, "attention_mask": axes}


def _two_texts(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    inputs, axes = _text(family, model)
    ids, mask, decoder_axes = _tokens("decoder_sequence", 7)
    more = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return {**inputs, **more}, {**axes, **dict.fromkeys(more, decoder_axes)}


def _step(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    import torch

    heads = int(family.sizes.get("num_key_value_heads", 4))
    ids, _, _ = _tokens(length=1)
    mask = torch.ones(_BATCH, _PAST + 1, dtype=torch.int64)
    mask[1, :2] = 0
    past = torch.randn(LAYERS, _BATCH, heads, _PAST, 16)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "past_keys": past,
        "past_values": past + 1,
    }
    past_axes = {1: "batch", 3: "past"}
    return inputs, {
        "input_ids": {0: "batch"},
        "attention_mask": {0: "batch", 1: "total"},
        "past_keys": past_axes,
        "past_values": past_axes,
    }


def _image(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    return {"pixel_values": torch.randn(_BATCH, 3, 32, 32, generator=generator)}, {
        "pixel_values": {0: "batch"}
    }


def _image_and_text(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    (images, image_axes), (text, text_axes) = _image(family, model), _text(family, model)
    return {**text, **images}, {**text_axes, **image_axes}


def _audio(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    sound = torch.randn(_BATCH, 16, 40, generator=generator)
    ids, mask, axes = _tokens("decoder_sequence", 7)
    inputs = {"input_features": sound, "decoder_input_ids": ids, "decoder_attention_mask": mask}
    return inputs, {
        "input_features": {0: "batch"},
        "decoder_input_ids": axes,
        "decoder_attention_mask": axes,
    }
