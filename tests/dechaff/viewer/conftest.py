"""Traces that the tests of the viewer share, and the browser they are looked at with."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright
from transformers import BertConfig, BertModel

import dechaff
from dechaff.trace_file import read_trace
from tests.dechaff.viewer.browsing import FLAGS, Pages, find_chromium

Trace = dict[str, Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def pages(browser: Browser, tmp_path: pathlib.Path) -> Iterator[Pages]:
    folder = tmp_path / "pages"
    folder.mkdir()
    opened = Pages(browser, folder)
    yield opened
    opened.close()


def bert(layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=96,
        vocab_size=100,
    )
    model: torch.nn.Module = BertModel(config).eval()
    return model


def batch() -> dict[str, torch.Tensor]:
    mask = (torch.arange(8) < torch.tensor([[8], [3]])).long()
    return {"input_ids": torch.arange(16).reshape(2, 8), "attention_mask": mask}


@pytest.fixture(scope="session")
def bert_trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A run on a torch model of two layers, every pass verified."""
    path = tmp_path_factory.mktemp("traces") / "bert.dechaff"
    dechaff.optimize(bert(2), batch(), verify="each", trace=path, progress=False)
    return read_trace(path)


class LastHiddenState(torch.nn.Module):
    """As the older exporter takes a model: positional arguments, one result, one name in front."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.bert = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.bert(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return result


def export_by_tracing(model: torch.nn.Module, path: pathlib.Path) -> None:
    """Write a model as torch's older exporter does, without dynamo."""
    names = ["input_ids", "attention_mask"]
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            LastHiddenState(model),
            tuple(batch().values()),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=dict.fromkeys(names, axes),
        )


@pytest.fixture(scope="session")
def deep_trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Fourteen layers of BERT with everything spelled out, and the default passes three times."""
    folder = tmp_path_factory.mktemp("deep")
    export_by_tracing(bert(14), folder / "deep.onnx")
    path = folder / "deep.dechaff"
    dechaff.optimize(
        folder / "deep.onnx",
        passes="default,default,default",
        verify="off",
        trace=path,
        progress=False,
    )
    return read_trace(path)
