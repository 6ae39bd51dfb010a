"""The exporter's own optimization: what it removes, and that its steps grow with the graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import pytest

from dechaff.frontend.exporter_optimization import optimize_export
from dechaff.ir import parse


def test_it_folds_inlines_and_removes() -> None:
    module = parse("""
        <ir_version: 10, opset_import: ["" : 23, "local" : 1]>
        main (float[B,4] x) => (float[B,4] y)
        {
            two = Constant <value = float {2.0}> ()
            four = Mul (two, two)
            same = Identity (x)
            unused = Exp (x)
            y = local.scale (same, four)
        }
        <domain: "local", opset_import: ["" : 23]>
        scale (a, b) => (c) { c = Mul (a, b) }
    """)
    optimize_export(module.model)
    assert [node.op_type for node in module.graph] == ["Mul"]
    assert not module.model.functions


def test_no_rule_lists_the_graph_at_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _walks(20, monkeypatch) == _walks(40, monkeypatch)


def _walks(slices: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the graph is walked through while it is optimized."""
    module = parse(_slices(slices))
    walk = ir.Graph.__iter__
    walks = 0

    def counted(graph: ir.Graph) -> Iterator[ir.Node]:
        nonlocal walks
        walks += 1
        return walk(graph)

    with monkeypatch.context() as patch:
        patch.setattr(ir.Graph, "__iter__", counted)
        optimize_export(module.model)
    return walks


def _slices(count: int) -> str:
    lines = [
        f"h{i} = Slice (x{i}, start, end, axis) x{i + 1} = Concat <axis = 1> (h{i}, h{i})"
        for i in range(count)
    ]
    return f"""
        <ir_version: 10, opset_import: ["" : 23]>
        main (float[B,4] x0) => (float[B,4] x{count})
            <int64[1] start = {{0}}, int64[1] end = {{2}}, int64[1] axis = {{1}}>
        {{ {" ".join(lines)} }}
    """
