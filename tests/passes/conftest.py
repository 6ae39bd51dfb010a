"""Real exports of a two-layer BERT, at the opsets that spell it differently."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import Module

LAYERS = 2


@pytest.fixture(scope="session")
def exported_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Module]:
    """A fresh module of the model exported at an opset; the older exporter below 18."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def path_of(attention: str, opset: int) -> Path:
        path = folder / f"bert_{attention}_{opset}.onnx"
        export_bert(path, attention, opset)
        return path

    return lambda attention, opset: from_onnx(path_of(attention, opset))


def export_bert(path: Path, attention: str, opset: int) -> None:
    """Write the model with random weights; biases are random too, equal ones would be merged."""
    import torch
    import transformers

    bert: Any = transformers
    torch.manual_seed(0)
    config = bert.BertConfig(
        num_hidden_layers=LAYERS,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        max_position_embeddings=32,
        attn_implementation=attention,
    )
    model = bert.BertModel(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)

    class Positional(torch.nn.Module):
        """The older exporter knows positions only, and no dataclasses."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.bert(input_ids=ids, attention_mask=mask)
            return result.last_hidden_state, result.pooler_output

    wrapped = Positional()
    wrapped.train(False)
    ids = torch.arange(15).reshape(3, 5)
    mask = torch.ones(3, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    names = ["input_ids", "attention_mask"]
    axes = {0: "batch", 1: "sequence"}
    how: dict[str, Any] = {"dynamo": False, "dynamic_axes": dict.fromkeys(names, axes)}
    if opset >= 18:
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=32)}
        how = {
            "dynamo": True,
            "dynamic_shapes": (dims, dims),
            "verbose": False,
            "external_data": False,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped,
            (ids, mask),
            str(path),
            opset_version=opset,
            input_names=names,
            output_names=["hidden", "pooled"],
            **how,
        )
