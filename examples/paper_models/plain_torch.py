"""Models of torch's own Transformer modules, as people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import HEADS, LAYERS, WIDTH, Embedding, TextModel, masked_mean


class TorchEncoder(TextModel):
    """``nn.TransformerEncoder``."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embedding = Embedding()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        padding = attention_mask == 0
        return self.encoder(self.embedding(input_ids), src_key_padding_mask=padding)


class TorchDecoder(TextModel):
    """``nn.TransformerEncoder`` with a causal mask: what a GPT is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        past = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        padding = torch.zeros_like(past[:1]).masked_fill(attention_mask == 0, -torch.inf)
        return self.encoder(
            self.embedding(input_ids), past, src_key_padding_mask=padding, is_causal=True
        )


class TorchAttention(TextModel):
    """``nn.MultiheadAttention``, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """A vector [B, D]."""
        x, padding = self.embedding(input_ids), attention_mask == 0
        for attention in self.attentions:
            mixed, _ = attention(x, x, x, key_padding_mask=padding, need_weights=False)
            x = self.norm(x + mixed)
        return masked_mean(x, attention_mask)


class TorchEncoderOfIds(TextModel):
    """``nn.TransformerEncoder`` that finds padding by the id 0, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TorchEncoder()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        model = self.model
        return model.encoder(model.embedding(input_ids), src_key_padding_mask=input_ids == 0)

    def example(self) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
        """Ids with 0 where padding is."""
        inputs, axes = super().example()
        ids = torch.where(inputs["attention_mask"] == 0, 0, inputs["input_ids"])
        return {"input_ids": ids}, {"input_ids": axes["input_ids"]}
