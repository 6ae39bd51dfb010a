"""Prune: attention and feed-forward blocks, heads and inner features are taken out for good."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError, constant_value

from .approximation import Approximation, Calibration, Edit
from .matching import only_consumer
from .part_removal import remove_features, remove_heads
from .pass_context import PassContext
from .reconstruction import (
    Moments,
    Reconstruction,
    error_of_mean,
    mean_output,
    order_of_least_harm,
    reconstruct,
    second_moments,
)
from .removal import Removal
from .residual_blocks import AttentionBlock, FeedForwardBlock, ResidualBlock, residual_blocks
from .rewriter import Rewriter

_NORMALIZATIONS = frozenset(
    ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]
)
_SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
"""Shares of the heads or inner features of a block that a search tries to give up."""


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
        reconstruct: let the heads and features of a block that stay make up for those that go, by
            least squares on calibration data, which it then needs; a block that goes leaves what it
            added in the mean.
    """

    remove: str = ""
    zeros: bool = True
    reconstruct: bool = False

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
    pruning"). Blocks, heads and features compete in it: each edit says how large an error it adds
    to the residual stream on calibration data, as a share of the stream's variance.
    With ``reconstruct`` the last matrix of a block that loses parts is fitted to give what the
    whole block gave on calibration data (ZipLM, NeurIPS 2023, section 3). Without options the pass
    removes heads and features that zero weights have switched off already, as pruning by masks
    leaves them.

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
        fit = _Fit(module, blocks, rewriter.context) if self._reconstructs(removal) else None
        nodes = list(module.graph)
        for name, block in blocks.items():
            named = removal.parts.get(name, frozenset())
            gone = named | (_without_effect(block) if self.options.zeros else frozenset())
            if gone and name not in removal.blocks:
                kept = _kept(block, gone)
                fitted = fit(block, kept) if fit is not None and named else None
                _remove_parts(block, kept, nodes, rewriter, fitted)
        place = {node: index for index, node in enumerate(nodes)}
        # What a block leaves may be the sum of the block before it: that one goes after it.
        for name in sorted(removal.blocks, key=lambda name: -place[blocks[name].last]):
            whole = removal.blocks[name]
            mean = fit.mean(blocks[name]) if fit is not None and not whole else None
            _remove_block(blocks[name], whole, mean, rewriter)

    def _reconstructs(self, removal: Removal) -> bool:
        some_blocks = not all(removal.blocks.values())
        return self.options.reconstruct and (some_blocks or any(removal.parts.values()))

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Blocks, then heads, then groups of inner features, from the last layer to the first."""
        position = {node: index for index, node in enumerate(module.graph)}
        blocks = sorted(residual_blocks(module), key=lambda b: position[b.last], reverse=True)
        moments = second_moments(module, blocks, calibration)
        parts = [edit for block in blocks for edit in _part_edits(block, moments[block.name])]
        return [
            *(edit for block in blocks for edit in _block_edits(block, moments[block.name])),
            *(edit for edit in parts if edit.level == 1),
            *(edit for edit in parts if edit.level == 2),
        ]


class _Fit:
    """What last products become; worked out once for the same parts of the same module."""

    def __init__(
        self, module: Module, blocks: Mapping[str, ResidualBlock], context: PassContext
    ) -> None:
        data = context.calibration_for("prune{reconstruct=true}")
        self._context = context
        self._moments = context.once(
            "moments", lambda: second_moments(module, list(blocks.values()), data)
        )

    def __call__(self, block: ResidualBlock, kept: Sequence[int]) -> Reconstruction:
        moments, count = self._moments[block.name], _num_parts(block)
        return self._context.once(
            f"{block.name} {kept}", lambda: reconstruct(block, moments, kept, count)
        )

    def mean(self, block: ResidualBlock) -> np.ndarray[Any, Any] | None:
        """What a block adds in the mean."""
        return mean_output(block, self._moments[block.name])


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


def _kept(block: ResidualBlock, gone: frozenset[int]) -> list[int]:
    """The parts that stay; of all parts one does, since a block without any is no block."""
    return [part for part in range(_num_parts(block)) if part not in gone] or [0]


def _remove_parts(
    block: ResidualBlock,
    kept: Sequence[int],
    nodes: Sequence[ir.Node],
    rewriter: Rewriter,
    fitted: Reconstruction | None,
) -> None:
    if isinstance(block, AttentionBlock):
        remove_heads(block, kept, rewriter, fitted)
    elif isinstance(block, FeedForwardBlock):
        remove_features(block, kept, nodes, rewriter, fitted)


def _without_effect(block: ResidualBlock) -> frozenset[int]:
    """Parts whose rows of the last matrix are all zero."""
    tensor = constant_value(block.last.inputs[1])
    assert tensor is not None  # a block ends in a dense node
    alive = np.any(tensor.numpy() != 0, axis=1).reshape(_num_parts(block), -1).any(axis=1)
    return frozenset(np.flatnonzero(~alive).tolist())


def _remove_block(
    block: ResidualBlock, whole: bool, mean: np.ndarray[Any, Any] | None, rewriter: Rewriter
) -> None:
    end = block.addition
    behind = only_consumer(end.outputs[0])
    if whole and behind is not None and behind.op_type in _NORMALIZATIONS:
        end = behind
    with rewriter.rewrite("remove-block", [block.last, end]) as builder:
        left = block.skip
        if mean is not None and block.skip.dtype is not None:
            constant = builder.constant(mean.astype(block.skip.dtype.numpy()), f"{block.name}.mean")
            left = builder.op("Add", [block.skip, constant])
        builder.replace(end.outputs[0], left)


def _block_edits(block: ResidualBlock, moments: Moments) -> Iterator[Edit]:
    """Remove the block; where a normalization follows, with it too, as another way to try."""
    harm = moments.harm(error_of_mean(block, moments))

    def remove(whole: bool) -> Edit:
        def change(options: PruneOptions) -> PruneOptions | None:
            removal = options.removal()
            if block.name in removal.blocks:
                return None
            removal = removal.with_block(block.name, whole=whole)
            reconstruct = options.reconstruct or not whole
            return dataclasses.replace(options, remove=str(removal), reconstruct=reconstruct)

        kind = f"{_kind(block)}, whole" if whole else _kind(block)
        name = f"{block.name}.whole" if whole else block.name
        return Edit(name, 0, change, block.name, kind, harm)

    yield remove(False)
    behind = only_consumer(block.addition.outputs[0])
    if behind is not None and behind.op_type in _NORMALIZATIONS:
        yield remove(True)


def _kind(block: ResidualBlock) -> str:
    return "attention block" if isinstance(block, AttentionBlock) else "feed-forward block"


def _part_edits(block: ResidualBlock, moments: Moments) -> Iterator[Edit]:
    """Give up shares of a block's parts, those first that the others can best make up for."""
    count = _num_parts(block)
    order = order_of_least_harm(block, moments, count)
    what, level = ("heads", 1) if isinstance(block, AttentionBlock) else ("features", 2)
    for number in dict.fromkeys(round(share * count) for share in _SHARES):
        if 0 < number <= len(order.parts):
            change = _WithoutParts(block.name, tuple(order.parts[:number]), count)
            name = f"{number} of {count} {block.name}.{what}"
            harm = moments.harm(order.errors[number - 1])
            yield Edit(name, level, change, block.name, what, harm)


@dataclasses.dataclass(frozen=True)
class _WithoutParts:
    """Options with parts of a block removed; None if the block is gone, or would be empty."""

    block: str
    parts: tuple[int, ...]
    count: int

    def __call__(self, options: PruneOptions) -> PruneOptions | None:
        removal = options.removal()
        gone = removal.parts.get(self.block, frozenset()) | frozenset(self.parts)
        if self.block in removal.blocks or len(gone) >= self.count:
            return None
        removal = removal.with_parts(self.block, self.parts)
        return dataclasses.replace(options, remove=str(removal), reconstruct=True)
