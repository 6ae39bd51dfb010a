"""Models that mix positions by something else than softmax attention, or by more than it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import (
    HEAD,
    HEADS,
    LAYERS,
    WIDTH,
    Embedding,
    FeedForward,
    TextModel,
    causal,
    join_heads,
    split_heads,
)


class DecayedLinearAttention(nn.Module):
    """``((Q K^T) * decay) V`` with a decay per head (TransNormerLLM, its quadratic form)."""

    rates: Tensor

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.gate, self.out = (
            nn.Linear(WIDTH, WIDTH) for _ in range(5)
        )
        self.norm = nn.RMSNorm(WIDTH)
        slopes = 2.0 ** (-8 * torch.arange(1, HEADS + 1) / HEADS)
        self.register_buffer("rates", slopes * (1 - layer / max(1, LAYERS - 1) + 1e-5))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """``x`` [B, S, D]; keys and values of padding are zero."""
        seen = attention_mask[:, :, None].to(x.dtype)
        query = split_heads(functional.silu(self.query(x)))
        key = split_heads(functional.silu(self.key(x)) * seen)
        value = split_heads(functional.silu(self.value(x)) * seen)
        places = torch.arange(x.shape[1], device=x.device)
        distance = places[:, None] - places[None, :]
        decay = torch.exp(-self.rates[:, None, None] * distance)  # relative: no overflow
        decay = torch.where(distance >= 0, decay, 0.0)
        mixed = join_heads((query @ key.transpose(2, 3) * decay) @ value)
        return self.out(self.norm(mixed) * torch.sigmoid(self.gate(x)))


class TransNormer(TextModel):
    """Linear attention with decay (TransNormerLLM, arXiv 2307.14995)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.mixers = nn.ModuleList(DecayedLinearAttention(layer) for layer in range(LAYERS))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.ups = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(2 * LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        x = self.embedding(input_ids)
        for layer, mixer in enumerate(self.mixers):
            x = x + mixer(self.norms[2 * layer](x), attention_mask)
            normed = self.norms[2 * layer + 1](x)
            x = x + self.gates[layer](normed) * self.ups[layer](normed)
        return x


class GatedAssociativeMemory(TextModel):
    """A causal convolution and a lookup in learned slots, gated (GAM, arXiv 2509.00605)."""

    def __init__(self, slots: int = 32) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3) for _ in range(LAYERS))
        self.memories = nn.ParameterList(torch.randn(slots, WIDTH) for _ in range(LAYERS))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(LAYERS))
        self.feed_forwards = nn.ModuleList(FeedForward() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D], zero at padding."""
        x = self.embedding(input_ids)
        seen = attention_mask[:, :, None].to(x.dtype)
        for layer, memory in enumerate(self.memories):
            normed = self.norms[2 * layer](x)
            shifted = functional.pad((normed * seen).transpose(1, 2), (2, 0))
            near = self.convolutions[layer](shifted).transpose(1, 2)
            far = torch.softmax(normed @ memory.T, -1) @ memory
            near_gate, far_gate = torch.sigmoid(self.gates[layer](normed)).chunk(2, -1)
            x = x + near_gate * near + far_gate * far
            x = x + self.feed_forwards[layer](self.norms[2 * layer + 1](x))
        return x * seen


class SquaredReluFeedForward(nn.Module):
    """``relu(x W)^2 W'``."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, S, D]."""
        return self.down(torch.square(torch.relu(self.up(x))))


class ConvolvedAttention(nn.Module):
    """Causal attention whose queries, keys and values each see two earlier positions."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.taps = nn.Parameter(torch.randn(3, 3 * WIDTH) / 3)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """``x`` [B, S, D]."""
        projected = self.projection(x)
        padded = functional.pad(projected, (0, 0, 2, 0))
        length = x.shape[1]
        mixed = sum(self.taps[j] * padded[:, 2 - j : 2 - j + length] for j in range(3))
        heads = [split_heads(part) for part in torch.as_tensor(mixed).chunk(3, -1)]
        scores = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(HEAD)
        scores = scores.masked_fill(~causal(attention_mask), torch.finfo(x.dtype).min)
        return self.out(join_heads(torch.softmax(scores, -1) @ heads[2]))


class Primer(TextModel):
    """Squared ReLU, and a depthwise convolution after each projection (arXiv 2109.08668)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.attentions = nn.ModuleList(ConvolvedAttention() for _ in range(LAYERS))
        self.feed_forwards = nn.ModuleList(SquaredReluFeedForward() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        x = self.embedding(input_ids)
        for layer in range(LAYERS):
            x = x + self.attentions[layer](self.norms[2 * layer](x), attention_mask)
            x = x + self.feed_forwards[layer](self.norms[2 * layer + 1](x))
        return x
