from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch
from transformers import BertConfig, BertModel

from dechaff.frontend import from_onnx, from_torch
from dechaff.ir import Module
from tests.model_runner import run_module

SIZES = [(1, 1), (1, 6), (4, 4), (2, 9)]
"""Batch and sequence: ones, equal ones, and sizes unlike those of any capture."""

LEGACY = [("eager", 11), ("sdpa", 14), ("sdpa", 17)]
DYNAMO = [("sdpa", 18), ("eager", 20), ("sdpa", 23)]


def make_bert(attention: str = "sdpa") -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(  # type: ignore[call-arg]
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        max_position_embeddings=32,
        attn_implementation=attention,
    )
    bert: BertModel = BertModel(config).eval()
    return bert


def make_inputs(batch: int, sequence: int) -> dict[str, torch.Tensor]:
    """Ids, and a mask that leaves out the end of the first row."""
    ids = torch.arange(batch * sequence).reshape(batch, sequence) % 50
    mask = torch.ones(batch, sequence, dtype=torch.int64)
    mask[0, sequence // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def call(module: Module, *args: Any, **kwargs: Any) -> Any:
    """Call a captured module as its original is called."""
    convention = module.calling_convention
    assert convention is not None
    return convention.unflatten(run_module(module, convention.flatten(args, kwargs)))


class PositionalBert(torch.nn.Module):
    """The older exporter knows positions only, and no dataclasses."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return result.last_hidden_state, result.pooler_output


NAMES = ["last_hidden_state", "pooler_output"]


def export_legacy(attention: str, opset: int, path: Path) -> None:
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing fixes what does not vary here
        torch.onnx.export(
            PositionalBert(make_bert(attention)).eval(),
            tuple(make_inputs(3, 7).values()),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["input_ids", "attention_mask"],
            output_names=NAMES,
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
        )


def export_dynamo(attention: str, opset: int, path: Path) -> None:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=32)}
    torch.onnx.export(
        make_bert(attention),
        tuple(make_inputs(3, 7).values()),
        str(path),
        opset_version=opset,
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=NAMES,
        dynamic_shapes=(axes, axes),
        verbose=False,
    )


@pytest.fixture(scope="session")
def bert() -> BertModel:
    return make_bert()


@pytest.fixture(scope="session")
def captured_bert(bert: BertModel) -> Module:
    return from_torch(bert, make_inputs(3, 7))


@pytest.fixture(scope="session")
def exported_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Module]:
    """The model as exporters of either kind write it, read back; made once each."""
    folder = tmp_path_factory.mktemp("exports")
    modules: dict[tuple[str, int], Module] = {}

    def read(attention: str, opset: int) -> Module:
        if (attention, opset) not in modules:
            path = folder / f"{attention}_{opset}.onnx"
            export = export_legacy if (attention, opset) in LEGACY else export_dynamo
            export(attention, opset, path)
            module = from_onnx(path)
            onnx_ir.external_data.load_to_model(module.model)
            modules[attention, opset] = module
        return modules[attention, opset].clone()

    return read
