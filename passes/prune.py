"""Prune: attention and feed-forward blocks, heads and inner features are taken out for good."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError, constant_value

from .approximation import Approximation, Calibration, Edit
from .matching import only_consumer
from .part_removal import remove_features, remove_heads
from .removal import Removal
from .residual_blocks import AttentionBlock, FeedForwardBlock, ResidualBlock, residual_blocks
from .rewriter import Rewriter

_NORMALIZATIONS = frozenset(
    ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]
)
_CHUNKS = 8
"""Groups of inner features that a search tries in each feed-forward block."""


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """Options of ``prune``.

    Attributes:
        remove: blocks, heads and inner features, joined by ``+``: ``attention.5``, ``ffn.5.whole``
            (with the normalization behind it), ``attention.3.heads.0:2``, ``ffn.1.features.0-63``.
            Blocks are counted from 0 in the order of the graph, as they stand before the pass.
            Where several heads of queries share one of keys and values, heads are counted by the
            latter.
        zeros: remove heads and inner features too that a zero weight keeps from having any effect.
    """

    remove: str = ""
    zeros: bool = True

    def __post_init__(self) -> None:
        self.removal()

    def removal(self) -> Removal:
        """What to remove.

        Raises:
            ValueError: ``remove`` cannot be read.
        """
        return Removal.parse(self.remove)


class Prune(Approximation):
    """Remove attention blocks, feed-forward blocks, heads and inner features.

    A removed block leaves ``x`` of ``x + f(x)``; a removed head takes its columns out of the query,
    key and value projections and its rows out of the output projection; a removed feature takes a
    column out of the first dense layer (both, if one gates the other) and a row out of the second.
    Weights, biases, shapes and attributes shrink: nothing is masked. What to remove comes from the
    options, or from the search over a metric (AxFormer, arXiv 2010.03688, section "Accuracy-driven
    pruning"; its order, coarse to fine and from the last layer to the first, is that of the edits).
    Without options it removes heads and features that zero weights have switched off already, as
    pruning by masks leaves them.

    Before::

        before (float[B,S,2] x) => (float[B,S,2] y)
            <float[2,3] up = {1, 2, 3, 4, 5, 6}, float[3] bias = {1, 2, 3},
             float[3,2] down = {1, 2, 0, 0, 3, 4}>
        {
            wide = MatMul (x, up)
            biased = Add (wide, bias)
            active = Relu (biased)
            narrow = MatMul (active, down)
            y = Add (narrow, x)
        }

    After::

        after (float[B,S,2] x) => (float[B,S,2] y)
            <float[2,2] up = {1, 3, 4, 6}, float[2] bias = {1, 3}, float[2,2] down = {1, 2, 3, 4}>
        {
            wide = MatMul (x, up)
            biased = Add (wide, bias)
            active = Relu (biased)
            narrow = MatMul (active, down)
            y = Add (narrow, x)
        }
    """

    name = "prune"
    after = ("canonicalize", "fold-constants", "fuse-attention")
    options_type = PruneOptions
    levels = ("blocks", "heads", "features")

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Parts first: blocks keep their names meanwhile."""
        removal = self.options.removal()
        blocks = {block.name: block for block in residual_blocks(module)}
        _check_names(removal, blocks)
        nodes = list(module.graph)
        for name, block in blocks.items():
            gone = removal.parts.get(name, frozenset())
            if self.options.zeros:
                gone |= _without_effect(block)
            if gone and name not in removal.blocks:
                _remove_parts(block, gone, nodes, rewriter)
        for name, whole in removal.blocks.items():
            _remove_block(blocks[name], whole, rewriter)

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Blocks, then heads, then groups of inner features, from the last layer to the first."""
        position = {node: index for index, node in enumerate(module.graph)}
        blocks = sorted(residual_blocks(module), key=lambda b: position[b.last], reverse=True)
        return [
            *(edit for block in blocks for edit in _block_edits(block)),
            *(edit for block in blocks for edit in _head_edits(block)),
            *_feature_edits(module, blocks, calibration),
        ]


def _check_names(removal: Removal, blocks: dict[str, ResidualBlock]) -> None:
    unknown = [name for name in (*removal.blocks, *removal.parts) if name not in blocks]
    if unknown:
        raise UsageError(
            f"pass prune: there is no block {unknown[0]}; the model has "
            f"{', '.join(blocks) or 'none that dechaff recognizes'}"
        )
    for name, numbers in removal.parts.items():
        size = _num_parts(blocks[name])
        if numbers and max(numbers) >= size:
            raise UsageError(f"pass prune: {name} has parts 0 to {size - 1}, got {max(numbers)}")


def _num_parts(block: ResidualBlock) -> int:
    if isinstance(block, AttentionBlock):
        return block.num_groups
    return block.width if isinstance(block, FeedForwardBlock) else 0


def _remove_parts(
    block: ResidualBlock, gone: frozenset[int], nodes: Sequence[ir.Node], rewriter: Rewriter
) -> None:
    """Take parts out; of all parts one stays, since a block without any is no block."""
    kept = [part for part in range(_num_parts(block)) if part not in gone] or [0]
    if isinstance(block, AttentionBlock):
        remove_heads(block, kept, rewriter)
    elif isinstance(block, FeedForwardBlock):
        remove_features(block, kept, nodes, rewriter)


def _without_effect(block: ResidualBlock) -> frozenset[int]:
    """Parts whose rows of the last matrix are all zero."""
    tensor = constant_value(block.last.inputs[1])
    assert tensor is not None  # a block ends in a dense node
    alive = np.any(tensor.numpy() != 0, axis=1).reshape(_num_parts(block), -1).any(axis=1)
    return frozenset(np.flatnonzero(~alive).tolist())


def _remove_block(block: ResidualBlock, whole: bool, rewriter: Rewriter) -> None:
    end = block.addition
    behind = only_consumer(end.outputs[0])
    if whole and behind is not None and behind.op_type in _NORMALIZATIONS:
        end = behind
    with rewriter.rewrite("remove-block", [block.last, end]) as builder:
        builder.replace(end.outputs[0], block.skip)


def _block_edits(block: ResidualBlock) -> Iterator[Edit]:
    """Remove the block; where a normalization follows, with it too, as another way to try."""

    def remove(whole: bool) -> Edit:
        def change(options: PruneOptions) -> PruneOptions | None:
            removal = options.removal()
            if block.name in removal.blocks:
                return None
            return _with(options, removal.with_block(block.name, whole=whole))

        return Edit(f"{block.name}.whole" if whole else block.name, 0, change, block.name)

    yield remove(False)
    behind = only_consumer(block.addition.outputs[0])
    if behind is not None and behind.op_type in _NORMALIZATIONS:
        yield remove(True)


def _head_edits(block: ResidualBlock) -> Iterator[Edit]:
    if isinstance(block, AttentionBlock):
        for head in range(block.num_groups):
            name = f"{block.name}.heads.{head}"
            yield Edit(name, 1, _part_change(block.name, [head], block.num_groups))


def _part_change(block: str, parts: Sequence[int], of: int) -> _Change:
    return _Change(block, tuple(parts), of)


@dataclasses.dataclass(frozen=True)
class _Change:
    """Options with more parts of a block removed; None if the block is gone, or would be empty."""

    block: str
    parts: tuple[int, ...]
    of: int

    def __call__(self, options: PruneOptions) -> PruneOptions | None:
        removal = options.removal()
        gone = removal.parts.get(self.block, frozenset()) | frozenset(self.parts)
        if self.block in removal.blocks or len(gone) >= self.of:
            return None
        return _with(options, removal.with_parts(self.block, self.parts))


def _feature_edits(
    module: Module, blocks: Sequence[ResidualBlock], calibration: Calibration
) -> Iterator[Edit]:
    """The least important eighth of each block's inner features, then the next, and so on."""
    dense = [block for block in blocks if isinstance(block, FeedForwardBlock)]
    importance = _importance(module, dense, calibration)
    for chunk in range(_CHUNKS - 1):
        for block in dense:
            order = np.argsort(importance[block.name], kind="stable")
            parts = sorted(np.array_split(order, _CHUNKS)[chunk].tolist())
            if parts:
                name = f"{block.name}.features, eighth {chunk + 1}"
                yield Edit(name, 2, _part_change(block.name, parts, block.width))


def _importance(
    module: Module, blocks: Sequence[FeedForwardBlock], calibration: Calibration
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """float64[width] by block: the mean size of a feature times the length of its row behind it."""
    names = [str(block.last.inputs[0].name) for block in blocks if block.last.inputs[0]]
    totals = dict.fromkeys(names, np.float64(0))
    for values in calibration.values(module, names):
        for name, value in values.items():
            totals[name] += np.abs(value.astype(np.float64)).reshape(-1, value.shape[-1]).sum(0)
    found: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for block, name in zip(blocks, names, strict=True):
        tensor = constant_value(block.last.inputs[1])
        assert tensor is not None  # a block ends in a dense node
        rows = np.linalg.norm(tensor.numpy().astype(np.float64), axis=1)
        found[block.name] = np.asarray(totals[name] * rows)
    return found


def _with(options: PruneOptions, removal: Removal) -> PruneOptions:
    return dataclasses.replace(options, remove=str(removal))
