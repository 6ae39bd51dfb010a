"""The same input gives the same bytes, whatever the hash seed."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import onnx_ir as ir
import torch
from transformers import BertConfig, BertModel

from dechaff.frontend import from_torch


def written_under(seed: int, source: pathlib.Path, target: pathlib.Path) -> bytes:
    subprocess.run(
        [sys.executable, "-m", "dechaff", "optimize", source, "-o", target, "-q"],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
    )
    return target.read_bytes()


def test_the_written_model_does_not_depend_on_the_hash_seed(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        vocab_size=50,
    )  # fmt: skip
    inputs = {name: torch.ones(2, 5, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    source = tmp_path / "in.onnx"
    ir.save(from_torch(BertModel(config), inputs).model, source)
    first = written_under(1, source, tmp_path / "a.onnx")
    assert written_under(2, source, tmp_path / "b.onnx") == first
