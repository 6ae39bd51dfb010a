"""The trace: what it holds, that its schema describes it, and that graphs come back whole."""

from __future__ import annotations

import gzip
import json
import pathlib
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dechaff
from dechaff.ir import Module, UsageError
from dechaff.trace_file import apply_difference, graph_difference, read_trace, write_trace
from dechaff.trace_graph import GraphRecorder
from dechaff.trace_models import trace_of_models
from tests.dechaff.examples import LINEAR, MASKED_ENCODER, AddOne, masked_encoder

SCHEMA = json.loads(
    (pathlib.Path(dechaff.__file__).parent / "trace.schema.json").read_text("utf-8")
)


def trace_of_run(folder: pathlib.Path, module: Module, **options: Any) -> dict[str, Any]:
    path = folder / "run.dechaff"
    dechaff.optimize(module.model, trace=path, progress=False, **options)
    return read_trace(path)


@pytest.fixture(params=["final", "each", "off"])
def run(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> dict[str, Any]:
    return trace_of_run(tmp_path, masked_encoder(), verify=request.param)


def test_the_schema_describes_a_run(run: dict[str, Any]) -> None:
    jsonschema.validate(run, SCHEMA)
    assert [step["kind"] for step in run["steps"]][-1] == "lowering"
    assert run["options"]["passes"] == [step["name"] for step in run["steps"][:-1]]


def test_the_schema_describes_a_run_with_a_wrong_pass(tmp_path: pathlib.Path) -> None:
    trace = trace_of_run(tmp_path, masked_encoder(), passes=[AddOne()], verify="each")
    jsonschema.validate(trace, SCHEMA)
    assert trace["steps"][0]["undone"]
    assert not trace["steps"][0]["changed"]


@pytest.mark.parametrize("number", [1, 2])
def test_the_schema_describes_models(tmp_path: pathlib.Path, number: int) -> None:
    for name, text in (("a", LINEAR), ("b", MASKED_ENCODER)):
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"][:number]
    trace = trace_of_models(*files)
    jsonschema.validate(trace, SCHEMA)
    assert len(trace["steps"]) == number - 1


def test_the_same_run_gives_the_same_steps(tmp_path: pathlib.Path) -> None:
    def without_times(trace: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in step.items() if k != "seconds"} for step in trace["steps"]]

    first, second = (trace_of_run(tmp_path, masked_encoder()) for _ in range(2))
    assert without_times(first) == without_times(second)


def test_a_trace_holds_no_weights(tmp_path: pathlib.Path) -> None:
    secret = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    model = onnx.parser.parse_model(LINEAR.replace("[B,4]", "[B,64]"))
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(secret, "weight"))
    trace = trace_of_run(tmp_path, parse_proto(model))
    weight = trace["initial"]["weights"]["weight"]
    assert "values" not in weight
    assert weight["min"] == pytest.approx(secret.min(), rel=1e-5)
    assert weight["std"] == pytest.approx(secret.std(), rel=1e-5)
    assert len(json.dumps(trace)) < secret.nbytes


def parse_proto(model: onnx.ModelProto) -> Module:
    import onnx_ir

    return Module(onnx_ir.from_proto(model))


IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    order = draw(IDS)
    names = st.sampled_from(["Add", "Mul"])
    return {
        "inputs": [[name, "float"] for name in draw(IDS)],
        "outputs": [],
        "order": order,
        "nodes": {name: {"op": draw(names)} for name in order},
        "weights": {name: {"type": draw(names), "parameters": 1} for name in draw(IDS)},
    }


@given(graphs(), graphs())
def test_a_difference_leads_from_one_graph_to_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    found = apply_difference(before, graph_difference(before, after))
    assert found == after
    assert list(found["nodes"]) == after["order"]


@given(graphs())
def test_equal_graphs_differ_in_nothing(graph: dict[str, Any]) -> None:
    assert graph_difference(graph, graph) == {}


def test_steps_rebuild_the_lowered_graph(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.dechaff"
    optimized = dechaff.optimize(masked_encoder().model, trace=path, progress=False)
    trace = read_trace(path)
    graph = trace["initial"]
    for step in trace["steps"]:
        if "difference" in step and not step.get("undone"):
            graph = apply_difference(graph, step["difference"])
    recorded = GraphRecorder().record(optimized.module)
    assert graph["order"] == recorded["order"]
    assert graph["nodes"] == recorded["nodes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a trace"),
        (b"no gzip at all", "cannot be read"),
        (gzip.compress(b"{}")[:-9], "cannot be read"),
        (gzip.compress(b"not JSON"), "not a trace"),
        (gzip.compress(b"[" * 100_000), "not a trace"),
        (gzip.compress(b'{"format": "other"}'), "not a trace"),
        (gzip.compress(b'{"format": "dechaff-trace", "version": 99}'), "version 99"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.dechaff"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_trace(path)


def test_a_trace_into_a_folder_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        dechaff.optimize(
            masked_encoder().model, trace=tmp_path / "none" / "run.dechaff", progress=False
        )


def test_a_trace_replaces_a_file_as_a_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.dechaff"
    path.write_text("old")
    write_trace({"format": "dechaff-trace", "version": 1}, path)
    assert read_trace(path) == {"format": "dechaff-trace", "version": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.dechaff"]
