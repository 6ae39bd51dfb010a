"""What the models have in common: sizes, attention, feed-forward, masks, example inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 500
HEAD = WIDTH // HEADS
LONGEST = 128
"""Positions that a model has embeddings for."""

Inputs = dict[str, Tensor]
Axes = dict[str, dict[int, str]]
"""Which axes of an input may vary, by name."""


class Attention(nn.Module):
    """Multi-head softmax attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from ``x`` [B, S, D] to ``memory`` [B, M, D].

        Args:
            x: what asks.
            memory: what is asked; ``x`` itself in self-attention.
            mask: [B, 1 or H, S or 1, M]: true where to look, or numbers added to the scores.
        """
        query = split_heads(self.query(x))
        key, value = split_heads(self.key(memory)), split_heads(self.value(memory))
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(join_heads(context))


class FeedForward(nn.Sequential):
    """Two dense layers with GELU in between."""

    def __init__(self, hidden: int = 2 * WIDTH) -> None:
        super().__init__(nn.Linear(WIDTH, hidden), nn.GELU(), nn.Linear(hidden, WIDTH))


class Layer(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.feed_forward: nn.Module = FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` [B, S, D] under ``mask``, see :class:`Attention`."""
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed, mask)
        return x + self.feed_forward(self.norms[1](x))


class Embedding(nn.Module):
    """Words and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S, D] of ids [B, S]."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.words(ids) + self.positions(places)


def split_heads(x: Tensor) -> Tensor:
    """[B, H, S, d] of [B, S, H * d]."""
    return x.view(x.shape[0], x.shape[1], HEADS, HEAD).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, S, H * d] of [B, H, S, d]."""
    # A copy: the exporter spells attention out with other strides than those it was traced with.
    tokens = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return tokens.view(x.shape[0], x.shape[2], WIDTH)


def over_keys(attention_mask: Tensor) -> Tensor:
    """A mask [B, 1, 1, S] of [B, S]: each query may look at the valid keys."""
    return attention_mask[:, None, None, :].bool()


def causal(attention_mask: Tensor) -> Tensor:
    """A mask [B, 1, S, S]: each query may look at the valid keys up to its own."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return over_keys(attention_mask) & (places[None, :] <= places[:, None])


def masked_mean(x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, D]: the mean over valid positions."""
    seen = attention_mask[:, :, None].to(x.dtype)
    return (x * seen).sum(1) / seen.sum(1).clamp(min=1e-9)


def text(batch: int = 3, length: int = 11, seed: int = 20) -> Inputs:
    """Token ids and a mask whose second row is padded."""
    ids = torch.randint(5, 400, (batch, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


TEXT_AXES: Axes = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
}


class TextModel(nn.Module):
    """A model of token ids and a mask."""

    def example(self) -> tuple[Inputs, Axes]:
        """Inputs, and the axes of them that may vary."""
        return text(), TEXT_AXES

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As every torch module."""
        return super().__call__(*args, **kwargs)
