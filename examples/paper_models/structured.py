"""Models of other inputs than one text: graphs, pairs of texts, long texts; and hashed layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import (
    HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    Attention,
    Axes,
    Embedding,
    FeedForward,
    Inputs,
    Layer,
    TextModel,
    masked_mean,
    over_keys,
    text,
)

_FURTHEST = 8


class Graphormer(TextModel):
    """Attention biased by the distance of two nodes in their graph (arXiv 2106.05234)."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.degrees = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(16, WIDTH)
        self.distance_bias = nn.Embedding(_FURTHEST, HEADS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(
        self, node_ids: Tensor, degrees: Tensor, distances: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Node states [B, N, D].

        Args:
            node_ids: int64 [B, N].
            degrees: int64 [B, N].
            distances: int64 [B, N, N], shortest paths.
            attention_mask: [B, N], 0 where a graph has fewer nodes.
        """
        x = self.kinds(node_ids) + self.degrees(degrees)
        bias = self.distance_bias(distances).permute(0, 3, 1, 2)
        mask = bias.masked_fill(~over_keys(attention_mask), torch.finfo(x.dtype).min)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def example(self) -> tuple[Inputs, Axes]:
        """Three graphs of up to eleven nodes."""
        words, generator = text(), torch.Generator().manual_seed(4)
        ids, mask = words["input_ids"], words["attention_mask"]
        nodes = {0: "batch", 1: "sequence"}
        inputs = {
            "node_ids": ids,
            "degrees": torch.randint(0, 16, ids.shape, generator=generator),
            "distances": torch.randint(0, _FURTHEST, (*ids.shape, 11), generator=generator),
            "attention_mask": mask,
        }
        return inputs, {**dict.fromkeys(inputs, nodes), "distances": {**nodes, 2: "sequence"}}


class LargeGraphTransformer(TextModel):
    """Sampled neighbours for what is near, a codebook of all nodes for what is far (LargeGT)."""

    def __init__(self, neighbours: int = 6, codes: int = 16) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.project = nn.Linear(WIDTH, WIDTH)
        self.hops = nn.Embedding(3, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.codebook = nn.Parameter(torch.randn(codes, WIDTH))
        self.counts = nn.Parameter(torch.rand(codes) * 50 + 1, requires_grad=False)
        self.far, self.join = Attention(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, features: Tensor, hops: Tensor, attention_mask: Tensor) -> Tensor:
        """States [B, D] of the first node of each neighbourhood.

        Args:
            features: [B, K, D], the node itself and what was sampled around it.
            hops: int64 [B, K], 0 for the node itself.
            attention_mask: [B, K], 0 where there were fewer neighbours.
        """
        x = self.project(features) + self.hops(hops)
        for layer in self.layers:
            x = layer(x, over_keys(attention_mask))
        node = x[:, 0]
        codes = self.codebook[None].expand(node.shape[0], -1, -1)
        weight = torch.log(self.counts)[None, None, None, :]  # a code counts for its nodes
        far = self.far(node[:, None], codes, weight)[:, 0]
        return self.join(torch.cat([node, far], -1))

    def example(self) -> tuple[Inputs, Axes]:
        """Three neighbourhoods, one of them with few nodes."""
        generator = torch.Generator().manual_seed(5)
        mask = torch.ones(3, self.neighbours, dtype=torch.int64)
        mask[1, 3:] = 0
        inputs = {
            "features": torch.randn(3, self.neighbours, WIDTH, generator=generator),
            "hops": torch.randint(0, 3, (3, self.neighbours), generator=generator),
            "attention_mask": mask,
        }
        return inputs, {name: {0: "batch", 1: "neighbours"} for name in inputs}


class WideClassifier(TextModel):
    """One very wide layer in place of many (arXiv 2210.00640)."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embedding, self.attention = Embedding(), Attention()
        self.feed_forward = FeedForward(16 * WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.embedding(input_ids)
        x = self.norms[0](x + self.attention(x, x, over_keys(attention_mask)))
        x = self.norms[1](x + self.feed_forward(x))
        return self.head(masked_mean(x, attention_mask))


class BiEncoder(TextModel):
    """Two texts through one encoder, and how near they are (DSE)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [B, D]."""
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, over_keys(mask))
        return functional.normalize(masked_mean(x, mask), dim=-1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, other_ids: Tensor, other_mask: Tensor
    ) -> Tensor:
        """Cosines [B] of each text with its other."""
        first = self.encode(input_ids, attention_mask)
        return (first * self.encode(other_ids, other_mask)).sum(-1)

    def example(self) -> tuple[Inputs, Axes]:
        """Three pairs of texts."""
        first, second = text(), text(length=7, seed=6)
        inputs = {**first, "other_ids": second["input_ids"], "other_mask": second["attention_mask"]}
        own, other = {0: "batch", 1: "sequence"}, {0: "batch", 1: "other_sequence"}
        return inputs, {name: other if name.startswith("other") else own for name in inputs}


class SplitEncodeAggregate(TextModel):
    """A long text as segments: each encoded, then weighed and averaged (SEA)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.weigh = nn.Linear(WIDTH, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """A vector [B, D] of each text from its segments: ids and mask are [B, P, S]."""
        rows, segments, length = input_ids.shape
        mask = attention_mask.reshape(rows * segments, length)
        x = self.embedding(input_ids.reshape(rows * segments, length))
        for layer in self.layers:
            x = layer(x, over_keys(mask))
        states = masked_mean(x, mask).reshape(rows, segments, WIDTH)
        used = attention_mask.amax(-1)
        scores = self.weigh(states)[:, :, 0].masked_fill(used == 0, torch.finfo(x.dtype).min)
        weighed = (torch.softmax(scores, -1)[:, :, None] * states).sum(1)
        return (weighed + masked_mean(states, used)) / 2

    def example(self) -> tuple[Inputs, Axes]:
        """Two texts of up to three segments."""
        ids = torch.randint(5, 400, (2, 3, 9), generator=torch.Generator().manual_seed(7))
        mask = torch.ones(2, 3, 9, dtype=torch.int64)
        mask[0, 2, 4:], mask[1, 1:] = 0, 0
        axes = {0: "batch", 1: "segments", 2: "sequence"}
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs, dict.fromkeys(inputs, axes)


class TableLayer(nn.Module):
    """Hashed lookup tables in place of a dense layer."""

    powers: Tensor

    def __init__(self, inside: int, outside: int, bits: int = 4) -> None:
        super().__init__()
        self.bits, self.tables_count = bits, inside // bits
        self.tables = nn.Parameter(torch.randn(self.tables_count, 2**bits, outside) / 8)
        self.register_buffer("powers", 2 ** torch.arange(bits))

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, outside]: of each chunk of ``x`` the row that its signs address, weighed."""
        chunks = x.reshape(x.shape[0], x.shape[1], self.tables_count, self.bits)
        address = ((chunks > 0) * self.powers).sum(-1)
        weight = 1 / (1 + torch.exp(-2 * chunks.abs())).prod(-1)
        which = torch.arange(self.tables_count, device=x.device)
        return (self.tables[which, address] * weight[..., None]).sum(2)


class MemoryFormer(TextModel):
    """Every dense layer but the last is a table (arXiv 2411.12992)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.layers = nn.ModuleList(_table_layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, S, words]."""
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x, over_keys(attention_mask))
        return self.head(x)


def _table_layer() -> Layer:
    layer = Layer()
    for name in ("query", "key", "value", "out"):
        setattr(layer.attention, name, TableLayer(WIDTH, WIDTH))
    wide = 2 * WIDTH
    layer.feed_forward = nn.Sequential(
        TableLayer(WIDTH, wide), nn.LayerNorm(wide), TableLayer(wide, WIDTH)
    )
    return layer
