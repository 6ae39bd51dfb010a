"""Builds a family's model and the inputs that it is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from examples.paper_models import MODELS

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

    torch.manual_seed(_SEED)
    if family.kind == "own":
        model: torch.nn.Module = MODELS[family.model_type]().eval()
    else:
        model = _from_transformers(family)
    # Untrained biases are 0 and scales 1: without noise a rewrite that loses one would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_NOISE)
    if family.kind == "decoder step":
        return _one_step(model)
    return _local_windows(model) if family.kind == "local windows" else model


def _from_transformers(family: Family) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModel

    config: Any = AutoConfig.for_model(family.model_type, **family.sizes)
    if hasattr(config, "use_cache"):
        config.use_cache = family.kind == "decoder step"
    if getattr(config, "architectures", 0) is None:
        config.architectures = []  # what transformers expects of some older families
    model: torch.nn.Module = AutoModel.from_config(config).eval()
    return model


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


def _local_windows(model: torch.nn.Module) -> torch.nn.Module:
    """Longformer without global tokens: whether there are any is asked of the inputs' values."""
    import torch

    class LocalWindows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model.embeddings(input_ids=input_ids)
            padding = attention_mask == 0
            for layer in self.model.encoder.layer:
                hidden = layer(
                    hidden,
                    attention_mask=padding * -10000.0,
                    is_index_masked=padding,
                    is_index_global_attn=torch.zeros_like(padding),
                    is_global_attn=False,
                )[0]
            return hidden

    return LocalWindows().eval()


def example_inputs(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    """Ragged inputs of the family's kind, and the axes that may vary."""
    kinds = {
        "own": _own,
        "encoder": _text,
        "local windows": _text_in_windows,
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


def _own(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    own: Any = model
    inputs, axes = own.example()
    return dict(inputs), axes


def _text_in_windows(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    """The length must be a multiple of the window: it is part of the shapes, so that is fixed."""
    ids, mask, _ = _tokens(length=12)
    axes = {0: "batch"}
    return {"input_ids": ids, "attention_mask": mask}, {"input_ids": axes, "attention_mask": axes}


def _step(family: Family, model: torch.nn.Module) -> tuple[Inputs, Axes]:
    """One token behind a prompt, with the keys and values that the prompt has left."""
    import torch

    one_step: Any = model
    prompt, _, _ = _tokens(length=_PAST)
    mask = torch.ones(_BATCH, _PAST + 1, dtype=torch.int64)
    mask[1, :2] = 0
    with torch.no_grad():
        result = one_step.model(input_ids=prompt, attention_mask=mask[:, :-1], use_cache=True)
    layers = result.past_key_values.layers
    ids, _, _ = _tokens(length=1)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "past_keys": torch.stack([layer.keys for layer in layers]),
        "past_values": torch.stack([layer.values for layer in layers]),
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
