"""A small unified encoder-decoder over pictures and questions, with nothing but torch.

One encoder encodes the picture's patches and, apart from them, the question's words, with the same
weights; a decoder attends to both and answers with one word: the decomposition of MuE (CVPR 2023,
section 3.1), on a model like OFA's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from examples.picture_questions import (
    ANSWERS,
    CELL_SIZE,
    LONGEST_QUESTION,
    PICTURE_SIZE,
    WORD_IDS,
)

HIDDEN_SIZE = 192
NUM_HEADS = 6
ENCODER_LAYERS = 6
DECODER_LAYERS = 4
PATCH_SIZE = CELL_SIZE


class Attention(nn.Module):
    """Multi-head attention, of a state to itself or to another one."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """float[B, S, D] from ``x`` float[B, S, D], ``memory`` float[B, M, D], bool[B, M]."""
        query, key, value = (
            each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.query(x), self.key(memory), self.value(memory))
        )
        keys = None if mask is None else mask[:, None, None, :]
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        return self.output(context.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two products with GELU between them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, normalized before."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The next state, float[B, S, D]."""
        normalized = self.attention_norm(x)
        x = x + self.attention(normalized, normalized, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class DecoderLayer(nn.Module):
    """Attention to the answer so far, then to picture and question, and feed-forward."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads)
        self.cross_attention_norm = nn.LayerNorm(hidden_size)
        self.cross_attention = Attention(hidden_size, num_heads)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The next state, float[B, 1, D]."""
        normalized = self.attention_norm(x)
        x = x + self.attention(normalized, normalized, None)
        x = x + self.cross_attention(self.cross_attention_norm(x), memory, mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Encoder(nn.Module):
    """A stack of layers over the tokens of one modality."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, depths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The state after the last layer, or for each row after as many as ``depths`` says."""
        end = x
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, mask)
            end = x if depths is None else torch.where((depths >= number)[:, None, None], x, end)
        return end


class PictureQuestionModel(nn.Module):
    """A picture's patches and a question's words through one encoder, and a decoder over both."""

    def __init__(
        self,
        hidden_size: int = HIDDEN_SIZE,
        num_heads: int = NUM_HEADS,
        encoder_layers: int = ENCODER_LAYERS,
        decoder_layers: int = DECODER_LAYERS,
    ) -> None:
        super().__init__()
        patches = (PICTURE_SIZE // PATCH_SIZE) ** 2
        self.patch_embedding = nn.Conv2d(3, hidden_size, PATCH_SIZE, stride=PATCH_SIZE)
        self.patch_positions = nn.Parameter(0.02 * torch.randn(patches, hidden_size))
        self.word_embedding = nn.Embedding(len(WORD_IDS) + 1, hidden_size)
        self.word_positions = nn.Parameter(0.02 * torch.randn(LONGEST_QUESTION, hidden_size))
        shared = nn.ModuleList(EncoderLayer(hidden_size, num_heads) for _ in range(encoder_layers))
        self.picture_encoder = Encoder(shared)
        self.question_encoder = Encoder(shared)
        self.memory_norm = nn.LayerNorm(hidden_size)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, hidden_size))
        self.decoder = nn.ModuleList(
            DecoderLayer(hidden_size, num_heads) for _ in range(decoder_layers)
        )
        self.answer_norm = nn.LayerNorm(hidden_size)
        self.answer = nn.Linear(hidden_size, len(ANSWERS))

    def forward(
        self, pixels: torch.Tensor, question: torch.Tensor, question_mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits float[B, number of answers].

        Args:
            pixels: float[B, 3, 72, 72] in 0 to 1.
            question: int64[B, S], ids of words.
            question_mask: int64[B, S], 1 at words, 0 at padding.
        """
        return self.all_logits(pixels, question, question_mask)[-1]

    def all_logits(
        self,
        pixels: torch.Tensor,
        question: torch.Tensor,
        question_mask: torch.Tensor,
        picture_depths: torch.Tensor | None = None,
        question_depths: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """What the head answers after each layer of the decoder.

        Args:
            pixels: as for ``forward``, and so are the next two.
            question: the words.
            question_mask: which words count.
            picture_depths: int64[B], layers of the encoder that each picture runs through.
            question_depths: int64[B], those of each question.
        """
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.patch_positions
        words = self.word_embedding(question) + self.word_positions[: question.shape[1]]
        words_count = question_mask != 0
        picture = self.picture_encoder(patches, None, picture_depths)
        text = self.question_encoder(words, words_count, question_depths)
        memory = self.memory_norm(torch.cat([picture, text], dim=1))
        patches_count = torch.ones_like(picture[:, :, 0], dtype=torch.bool)
        mask = torch.cat([patches_count, words_count], dim=1)
        x = self.start.expand(pixels.shape[0], -1, -1)
        logits = []
        for layer in self.decoder:
            x = layer(x, memory, mask)
            logits.append(self.answer(self.answer_norm(x[:, 0])))
        return logits
