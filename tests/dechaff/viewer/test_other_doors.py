"""Model Explorer, Netron, notebooks, single models, and files of two exporters."""

from __future__ import annotations

import errno
import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner

import dechaff
from dechaff.command_line import cli
from dechaff.ir import UsageError
from dechaff.model_explorer import graph_collection
from dechaff.trace_models import trace_of_models
from tests.dechaff.examples import LINEAR, MASKED_ENCODER, AddOne, linear, masked_encoder
from tests.dechaff.viewer.browsing import Pages, details, leaves
from tests.dechaff.viewer.conftest import batch, bert, export_by_tracing


def export_by_dynamo(model: torch.nn.Module, path: pathlib.Path) -> None:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    torch.onnx.export(
        model,
        (),
        str(path),
        kwargs=batch(),
        dynamic_shapes=dict.fromkeys(batch(), axes),
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The comparison of one model as torch's two exporters write it."""
    folder = tmp_path_factory.mktemp("exports")
    model = bert(2)
    export_by_dynamo(model, folder / "dynamo.onnx")
    export_by_tracing(model, folder / "traced.onnx")
    return trace_of_models(folder / "dynamo.onnx", folder / "traced.onnx")


def test_files_of_two_exporters_are_matched_by_what_they_compute(
    two_files: dict[str, Any],
) -> None:
    before = two_files["initial"]["nodes"]
    difference = two_files["steps"][0]["difference"]
    kept = {name: node for name, node in before.items() if name not in difference["removed"]}
    assert len(kept) > 0.7 * len(before)
    weighty = {name for name, node in before.items() if node["op"] in ("MatMul", "Gemm")}
    encoder = {name for name in weighty if before[name].get("path", "").startswith("encoder")}
    dense = {name for name in encoder if set(before[name]["inputs"]) & set(weights(two_files))}
    assert len(dense) == 12  # query, key, value, output and two of the MLP, in two layers
    assert dense <= set(kept)
    for name in dense:
        after = difference["nodes"].get(name, before[name])
        assert after["path"] == before[name]["path"]


def weights(trace: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = trace["initial"]["weights"]
    return found


def test_their_page_shows_modules_once(pages: Pages, two_files: dict[str, Any]) -> None:
    page = pages.open(two_files, "expand=all")
    labels = page.eval_on_selector_all(
        ".pane.after .group", "all => all.map(one => one.dataset.id)"
    )
    assert "encoder.layer.1.attention" in labels
    assert not [label for label in labels if label.startswith("bert")]
    assert "Operators are matched" in details(page)


def test_one_model_is_shown_as_it_is(pages: Pages, tmp_path: pathlib.Path) -> None:
    onnx.save(onnx.parser.parse_model(LINEAR), tmp_path / "linear.onnx")
    page = pages.open(trace_of_models(tmp_path / "linear.onnx"))
    assert len(leaves(page)) == 4
    assert page.locator("#timeline").is_hidden()


def test_the_command_writes_a_page_and_graphs_for_model_explorer(tmp_path: pathlib.Path) -> None:
    onnx.save(onnx.parser.parse_model(LINEAR), tmp_path / "linear.onnx")
    page, graphs = tmp_path / "page.html", tmp_path / "graphs.json"
    command = ["view", str(tmp_path / "linear.onnx"), "-o", str(page)]
    done = CliRunner().invoke(cli, [*command, "--model-explorer", str(graphs)])
    assert done.exit_code == 0, done.output
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(graphs.read_text())["label"] == "linear.onnx"


def test_model_explorers_graphs_hold_together(bert_trace: dict[str, Any]) -> None:
    collection = graph_collection(bert_trace)
    changed = [step for step in bert_trace["steps"] if step["changed"]]
    assert [graph["id"].partition(". ")[2] for graph in collection["graphs"][1:]] == [
        step["name"] for step in changed
    ]
    for graph in collection["graphs"]:
        nodes = {node["id"]: node for node in graph["nodes"]}
        assert len(nodes) == len(graph["nodes"])
        for node in graph["nodes"]:
            for edge in node.get("incomingEdges", []):
                outputs = nodes[edge["sourceNodeId"]]["outputsMetadata"]
                assert edge["sourceNodeOutputId"] in {item["id"] for item in outputs}
    fused = {node["id"]: node for node in collection["graphs"][2]["nodes"]}["Attention"]
    assert fused["namespace"] == "encoder/layer/0/attention/self"
    assert "borderColor" in fused["style"]


def test_snapshots_run_and_share_their_weights(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "snapshots"
    weight = np.ones((32, 32), dtype=np.float32)
    text = LINEAR.replace("[B,4]", "[B,32]").replace("float[4,4] weight", "float[32,32] weight")
    start = text.index("weight = ") + len("weight = ")
    values = "{" + ", ".join(["1.0"] * weight.size) + "}"
    text = text[:start] + values + text[text.index("}>", start) + 1 :]
    model = onnx.parser.parse_model(text)
    dechaff.optimize(model, passes=[AddOne()], verify="off", snapshots=folder, progress=False)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["00-imported.onnx", "01-add-one.onnx", "02-lowered.onnx", "weights.bin"]
    assert (folder / "weights.bin").stat().st_size == weight.nbytes
    inputs = {"x": np.ones((2, 32), dtype=np.float32)}
    results = [dechaff.load(folder / name).run(inputs)["y"] for name in files[:3]]
    np.testing.assert_allclose(results[1], results[0] + 1)
    np.testing.assert_allclose(results[2], results[1])
    onnx.checker.check_model(str(folder / files[0]))


def test_snapshots_do_not_go_among_other_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(UsageError, match="empty folder"):
        dechaff.optimize(linear().model, snapshots=tmp_path, verify="off", progress=False)


def test_snapshots_that_break_off_leave_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ir.save

    def full(model: ir.Model, path: pathlib.Path) -> None:
        save(model, path)
        if not path.name.startswith("00"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(UsageError, match=r"01-add-one\.onnx: No space left"):
        dechaff.optimize(
            linear().model, passes=[AddOne()], verify="off", snapshots=tmp_path, progress=False
        )
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_the_report(pages: Pages, browser: Any) -> None:
    optimized = dechaff.optimize(masked_encoder().model, progress=False)
    html = optimized._repr_html_()
    page = browser.new_page()
    page.set_content(f"<div class='output'>{html}</div>")
    assert "canonicalize" in page.locator(".output").inner_text()
    assert page.locator("script").count() == 0
    page.close()


def test_a_loaded_model_in_a_notebook_escapes_its_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "<b>bold<b>.onnx"
    onnx.save(onnx.parser.parse_model(MASKED_ENCODER), path)
    assert "<b>" not in dechaff.load(path)._repr_html_()
