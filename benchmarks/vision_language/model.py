"""A small unified encoder-decoder for pictures and questions."""

from __future__ import annotations

import torch
from torch import nn

from .examples import ANSWERS, CELLS, FEATURES, QUESTION, WORDS

WIDTH, _HEADS, LAYERS = 128, 4, 6


class Attention(nn.Module):
    """Attention of some states to others."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(
        self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Float[B, S, D]; ``mask`` is bool[B, K], true where a key counts."""

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.reshape(*x.shape[:2], _HEADS, WIDTH // _HEADS).transpose(1, 2)

        keys = None if mask is None else mask[:, None, None, :]
        found = nn.functional.scaled_dot_product_attention(
            heads(self.query(states)), heads(self.key(others)), heads(self.value(others)), keys
        )
        attended: torch.Tensor = self.output(found.transpose(1, 2).flatten(2))
        return attended


class Layer(nn.Module):
    """A layer of the encoder, or of the decoder, which attends to a memory too."""

    def __init__(self, crosses: bool) -> None:
        super().__init__()
        self.own = Attention()
        self.cross = Attention() if crosses else None
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(
        self,
        h: torch.Tensor,
        mask: torch.Tensor | None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The state after the layer, float[B, S, D]."""
        h = self.norms[0](h + self.own(h, h, mask))
        if self.cross is not None and memory is not None:
            h = self.norms[1](h + self.cross(h, memory, memory_mask))
        after: torch.Tensor = self.norms[2](h + self.down(nn.functional.gelu(self.up(h))))
        return after


class Encoder(nn.Module):
    """The encoder of both modalities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(crosses=False) for _ in range(LAYERS))

    def forward(self, h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The last state, float[B, S, D]."""
        for layer in self.layers:
            h = layer(h, mask)
        return h


class Decoder(nn.Module):
    """Gives the state after every layer, the last one last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(crosses=True) for _ in range(LAYERS))

    def forward(
        self, h: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """Float[B, 1, D] for each layer."""
        states: list[torch.Tensor] = []
        for layer in self.layers:
            h = layer(h, None, memory, mask)
            states.append(h)
        return states


class UnifiedModel(nn.Module):
    """Answers a question about a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(FEATURES, WIDTH)
        self.place = nn.Parameter(0.5 * torch.randn(1, CELLS, WIDTH))
        self.word = nn.Embedding(WORDS, WIDTH)
        self.word_place = nn.Parameter(0.5 * torch.randn(1, QUESTION, WIDTH))
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.encoder, self.decoder = Encoder(), Decoder()
        self.answer = nn.Linear(WIDTH, ANSWERS)

    def all_logits(
        self, picture: torch.Tensor, question: torch.Tensor, question_mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """Logits float[B, answers] of every layer of the decoder."""
        words = question_mask != 0
        seen = self.encoder(self.look(picture) + self.place, None)
        read = self.encoder(self.word(question) + self.word_place, words)
        mask = torch.cat([torch.ones_like(seen[:, :, 0], dtype=torch.bool), words], dim=1)
        start = self.start.expand(len(picture), 1, WIDTH)
        states = self.decoder(start, torch.cat([seen, read], dim=1), mask)
        return [self.answer(state[:, 0]) for state in states]

    def forward(
        self, picture: torch.Tensor, question: torch.Tensor, question_mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits float[B, answers]."""
        return self.all_logits(picture, question, question_mask)[-1]
