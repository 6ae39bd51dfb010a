"""Decoders around softmax attention: gates in place of residuals, landmarks, a memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .blocks import (
    HEAD,
    HEADS,
    LAYERS,
    LONGEST,
    TEXT_AXES,
    WIDTH,
    Attention,
    Axes,
    Embedding,
    FeedForward,
    Inputs,
    Layer,
    TextModel,
    causal,
    join_heads,
    split_heads,
    text,
)


class RecurrentGate(nn.Module):
    """``x`` and what a sublayer made of it, joined by a gated recurrent unit."""

    def __init__(self) -> None:
        super().__init__()
        self.from_y, self.from_x = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.candidate = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Both [B, S, D]."""
        reset_y, update_y, new_y = self.from_y(y).chunk(3, -1)
        reset_x, update_x = self.from_x(x).chunk(2, -1)
        update = torch.sigmoid(update_y + update_x - 2.0)  # the bias starts as an identity
        new = torch.tanh(new_y + self.candidate(torch.sigmoid(reset_y + reset_x) * x))
        return (1 - update) * x + update * new


class RelativeAttention(nn.Module):
    """Transformer-XL's attention: content and position each have a bias of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.positions = nn.Embedding(2 * LONGEST, WIDTH)
        self.content_bias = nn.Parameter(torch.randn(HEADS, 1, HEAD) / 4)
        self.position_bias = nn.Parameter(torch.randn(HEADS, 1, HEAD) / 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` [B, S, D]; ``mask`` [B, 1, S, S], true where to look."""
        query, key, value = (split_heads(f(x)) for f in (self.query, self.key, self.value))
        content = (query + self.content_bias) @ key.transpose(2, 3)
        places = torch.arange(x.shape[1], device=x.device)
        distance = places[:, None] - places[None, :] + LONGEST
        table = split_heads(self.positions.weight[None])
        by_distance = (query + self.position_bias) @ table.transpose(2, 3)
        position = by_distance.gather(3, distance.expand(*content.shape))
        scores = (content + position) / math.sqrt(HEAD)
        scores = scores.masked_fill(~mask, torch.finfo(x.dtype).min)
        return self.out(join_heads(torch.softmax(scores, -1) @ value))


class GatedTransformerXL(TextModel):
    """Gates in place of residual additions (GTrXL, arXiv 1910.06764), without its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.attentions = nn.ModuleList(RelativeAttention() for _ in range(LAYERS))
        self.feed_forwards = nn.ModuleList(FeedForward() for _ in range(LAYERS))
        self.gates = nn.ModuleList(RecurrentGate() for _ in range(2 * LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        x, mask = self.embedding(input_ids), causal(attention_mask)
        for layer in range(LAYERS):
            mixed = self.attentions[layer](self.norms[2 * layer](x), mask)
            x = self.gates[2 * layer](x, torch.relu(mixed))
            changed = self.feed_forwards[layer](self.norms[2 * layer + 1](x))
            x = self.gates[2 * layer + 1](x, torch.relu(changed))
        return x


class LandmarkAttention(nn.Module):
    """Grouped softmax: a block is weighed by its landmark, its tokens among themselves."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` [B, S, D]; every last token of a block is its landmark."""
        query, key, value = (split_heads(f(x)) for f in (self.query, self.key, self.value))
        lowest = torch.finfo(x.dtype).min
        scores = query @ key.transpose(2, 3) / math.sqrt(HEAD)
        places = torch.arange(x.shape[1], device=x.device)
        block, landmark = places // self.block, places % self.block == self.block - 1
        own = block[:, None] == block[None, :]
        here = mask & torch.where(own, ~landmark[None, :], landmark[None, :])
        weights = torch.softmax(scores.masked_fill(~here, lowest), -1)
        total = torch.zeros_like(weights)
        for index in range(LONGEST // self.block):
            inside = (block == index)[None, :] & ~landmark[None, :] & ~own
            within = torch.softmax(scores.masked_fill(~(mask & inside), lowest), -1)
            of_block = (weights * ((block == index) & landmark)).sum(-1, keepdim=True)
            total = total + within * inside * of_block
        total = total + weights * (own & ~landmark[None, :])
        return self.out(join_heads(total @ value))


class LandmarkTransformer(TextModel):
    """Landmark tokens (arXiv 2305.16300), all blocks retrieved."""

    def __init__(self, block: int = 16) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.attentions = nn.ModuleList(LandmarkAttention(block) for _ in range(LAYERS))
        self.feed_forwards = nn.ModuleList(FeedForward() for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, S, D]."""
        x, mask = self.embedding(input_ids), causal(attention_mask)
        for layer in range(LAYERS):
            x = x + self.attentions[layer](self.norms[2 * layer](x), mask)
            x = x + self.feed_forwards[layer](self.norms[2 * layer + 1](x))
        return x


class MemoryDecoder(TextModel):
    """A decoder that reads a short-term memory, and writes the next (RxT, arXiv 2510.03561)."""

    def __init__(self, slots: int = 8) -> None:
        super().__init__()
        self.slots = slots
        self.embedding = Embedding()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.readers = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.writer = Attention()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [B, S, D] and the memory [B, M, D] for the next message."""
        x, mask = self.embedding(input_ids), causal(attention_mask)
        for layer, reader, norm in zip(self.layers, self.readers, self.norms, strict=True):
            x = layer(x, mask)
            x = x + reader(norm(x), memory, None)
        gate = torch.sigmoid(self.gate(memory))
        seen = attention_mask[:, None, None, :].bool()
        return x, (1 - gate) * memory + gate * self.writer(memory, x, seen)

    def example(self) -> tuple[Inputs, Axes]:
        """Text and a memory."""
        generator = torch.Generator().manual_seed(3)
        memory = torch.randn(3, self.slots, WIDTH, generator=generator)
        return {**text(), "memory": memory}, {**TEXT_AXES, "memory": {0: "batch"}}
