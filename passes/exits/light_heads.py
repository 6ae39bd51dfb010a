"""Light exit heads: a linear classifier for each layer, kept in a file beside the model."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, UsageError
from dechaff.passes.rewriter import GraphBuilder

from .criteria import RowState

Weights = np.ndarray[Any, np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True)
class LightHead:
    """A linear classifier on the first token's state beside the mean of the tokens' states.

    Attributes:
        weight: float32[C, 2 * D].
        bias: float32[C].
    """

    weight: Weights
    bias: Weights

    def build(self, builder: GraphBuilder, state: RowState) -> ir.Value:
        """Logits float[n, C] of n rows.

        The mean of products is the product with the mean: each token is multiplied, so that what is
        brought into rows and summed is 2 * C numbers of a token, and not its state.
        """
        classes, width = len(self.weight), self.weight.shape[1] // 2
        of_first, of_mean = self.weight[:, :width], self.weight[:, width:]
        weight = builder.constant(np.concatenate([of_first, of_mean]).T, "exit_head_weight")
        products = builder.op("MatMul", [state.h, weight])
        summary = summarize(builder, products, state.keep_mask, state.token_index)
        one, none = np.eye(classes, dtype=np.float32), np.zeros((classes, classes), np.float32)
        own_parts = builder.constant(np.concatenate([one, none, none, one]), "exit_head_parts")
        bias = builder.constant(self.bias, "exit_head_bias")
        return builder.op("Gemm", [summary, own_parts, bias])


def summarize(
    builder: GraphBuilder, h: ir.Value, keep_mask: ir.Value, token_index: ir.Value | None
) -> ir.Value:
    """What light heads read of n rows, float[n, 2 * D]; see :class:`RowState`."""
    if token_index is None:
        return builder.op("TokenSummary", [h, keep_mask], domain=DOMAIN)
    packed = [h, token_index, keep_mask]
    return builder.op("PackedTokenSummary", packed, domain=DOMAIN)


LightHeads = Mapping[int, LightHead]
"""By layer, counted from 1."""


def save_heads(heads: LightHeads, path: str | os.PathLike[str]) -> None:
    """Write heads as ``.npz``: ``0.weight`` and ``0.bias`` for layer 1, and so on."""
    arrays: dict[str, Any] = {}
    for layer, head in sorted(heads.items()):
        arrays[f"{layer - 1}.weight"] = head.weight
        arrays[f"{layer - 1}.bias"] = head.bias
    with pathlib.Path(path).open("wb") as file:
        np.savez(file, **arrays)


def load_heads(path: str | os.PathLike[str]) -> dict[int, LightHead]:
    """Read heads from ``.npz``, or from ``.safetensors`` as ``torch.nn.ModuleList`` saves them.

    Raises:
        UsageError: the file cannot be read, or a head lacks its weight or bias.
    """
    arrays = _read(pathlib.Path(path))
    heads: dict[int, LightHead] = {}
    for name in arrays:
        index, _, part = name.partition(".")
        if not index.isdigit() or part not in ("weight", "bias"):
            raise UsageError(f"{path}: expected names such as '0.weight', got {name!r}")
        pair = [arrays.get(f"{index}.{each}") for each in ("weight", "bias")]
        weight, bias = pair
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise UsageError(f"{path}: head {index} lacks a weight [C, 2 * D] or a bias [C]")
        heads[int(index) + 1] = LightHead(weight.astype(np.float32), bias.astype(np.float32))
    return heads


def _read(path: pathlib.Path) -> dict[str, Weights]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ImportError as error:
        raise UsageError(
            f"{path}: reading it needs safetensors: pip install safetensors"
        ) from error
    except Exception as error:
        raise UsageError(f"{path}: not a readable file of exit heads: {error}") from error
