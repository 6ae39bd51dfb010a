"""Graphs that are none: circles, loose ends, endless nesting, a million nodes."""

from __future__ import annotations

import itertools
import pathlib

import onnx
import onnx.helper

from .corpus import CRASHED, DONE, REJECTED, body, graph_of, hostile, parse, write

node = onnx.helper.make_node


@hostile(REJECTED)
def circle(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"])], output="b"))


@hostile(REJECTED)
def node_that_reads_itself(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Add", ["x", "y"], ["y"])]))


@hostile(DONE)
def wrong_order(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["a"], ["y"]), node("Abs", ["x"], ["a"])]))


@hostile(REJECTED)
def value_made_twice(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"])]))


@hostile(REJECTED)
def input_made_again(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["x"], ["x"]), node("Abs", ["x"], ["y"])]))


@hostile(REJECTED)
def two_inputs_of_one_name(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.input.append(model.graph.input[0])
    write(folder, model)


@hostile(REJECTED)
def two_weights_of_one_name(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer.append(model.graph.initializer[0])
    model.graph.initializer[1].float_data[0] = 7
    write(folder, model)


@hostile(DONE)
def two_nodes_of_one_name(folder: pathlib.Path) -> None:
    nodes = [node("Neg", ["x"], ["a"], name="n"), node("Abs", ["a"], ["y"], name="n")]
    write(folder, graph_of(nodes))


@hostile(REJECTED)
def dangling_input(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Add", ["x", "nowhere"], ["y"])]))


@hostile(REJECTED)
def output_that_nothing_makes(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["x"], ["a"])]))


@hostile(REJECTED, DONE)
def no_nodes_and_no_outputs(folder: pathlib.Path) -> None:
    model = parse()
    del model.graph.node[:], model.graph.output[:]
    write(folder, model)


@hostile(REJECTED, DONE)
def node_without_an_operator(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("", ["x"], ["y"])]))


@hostile(REJECTED, DONE)
def node_without_inputs(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("MatMul", [], ["y"])]))


@hostile(REJECTED, DONE)
def too_many_outputs(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["x"], ["y", *(f"o{i}" for i in range(1000))])]))


@hostile(REJECTED)
def attribute_of_another_kind(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Softmax", ["x"], ["y"], axis="last")]))


@hostile(REJECTED, DONE)
def axes_out_of_range(folder: pathlib.Path) -> None:
    nodes = [
        node("Softmax", ["x"], ["a"], axis=2**62),
        node("Transpose", ["a"], ["b"], perm=[7, -9]),
        node("Concat", ["b", "b"], ["y"], axis=-(2**63)),
    ]
    write(folder, graph_of(nodes))


@hostile(REJECTED)
def subgraphs_thousands_deep(folder: pathlib.Path) -> None:
    """Written by hand: the library refuses to serialize them."""
    graph = node("Neg", ["x"], ["y"]).SerializeToString()
    for _ in range(3000):
        inner = field(1, graph)  # GraphProto.node
        attribute = field(1, b"body") + field(6, inner) + b"\xa0\x01\x05"  # name, g, type GRAPH
        graph = field(2, b"y") + field(4, b"If") + field(5, attribute)
    imports = field(8, b"\x10\x12")
    (folder / "model.onnx").write_bytes(b"\x08\x08" + field(7, field(1, graph)) + imports)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@hostile(REJECTED)
def subgraphs_forty_deep(folder: pathlib.Path) -> None:
    inner = node("Neg", ["x"], ["y"])
    for _ in range(28):
        outer = node("If", ["c"], ["y"])
        attribute = outer.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        attribute.g.node.append(inner)
        inner = outer
    write(folder, graph_of([inner]))


def functions(bodies: list[str]) -> onnx.ModelProto:
    """A model that calls the first of these functions, f0."""
    imports = '["" : 18, "local" : 1]'
    texts = [
        f'<domain: "local", opset_import: {imports}> f{index} (x) => (y) {{ {text} }}'
        for index, text in enumerate(bodies)
    ]
    return parse(
        f"<ir_version: 8, opset_import: {imports}> g (float[B] x) => (float[B] y) "
        f"{{ y = local.f0 (x) }} {' '.join(texts)}"
    )


@hostile(REJECTED)
def function_that_calls_itself(folder: pathlib.Path) -> None:
    write(folder, functions(["y = local.f0 (x)"]))


@hostile(REJECTED)
def functions_that_call_each_other(folder: pathlib.Path) -> None:
    write(folder, functions(["y = local.f1 (x)", "y = local.f0 (x)"]))


@hostile(REJECTED)
def functions_thousands_deep(folder: pathlib.Path) -> None:
    calls = [f"y = local.f{index + 1} (x)" for index in range(3000)]
    write(folder, functions([*calls, "y = Neg (x)"]))


@hostile(REJECTED)
def functions_that_multiply(folder: pathlib.Path) -> None:
    """Each calls the next twice: inlined, there are 2^50 nodes."""
    calls = [f"a = local.f{i + 1} (x) y = local.f{i + 1} (a)" for i in range(50)]
    write(folder, functions([*calls, "y = Neg (x)"]))


@hostile(REJECTED)
def two_functions_of_one_name(folder: pathlib.Path) -> None:
    model = functions(["y = Neg (x)", "y = Abs (x)"])
    model.functions[1].name = "f0"
    write(folder, model)


@hostile(REJECTED)
def million_nodes(folder: pathlib.Path) -> None:
    nodes = [node("Neg", [f"v{index}"], [f"v{index + 1}"]) for index in range(1000)]
    part = onnx.GraphProto(node=nodes).SerializeToString()
    model = graph_of([node("Neg", ["x"], ["y"])])
    graph = model.graph.SerializeToString() + part * 1000
    del model.graph.node[:]
    model.ClearField("graph")
    (folder / "model.onnx").write_bytes(model.SerializeToString() + field(7, graph))


@hostile(DONE, REJECTED)
def node_of_ten_thousand_inputs(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Concat", ["x"] * 10_000, ["y"], axis=0)]))


@hostile(DONE, REJECTED)
def chain_of_a_thousand_nodes(folder: pathlib.Path) -> None:
    """Deep enough for every recursion over a graph."""
    names = ["x", *(f"v{index}" for index in range(1999)), "y"]
    nodes = [node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    write(folder, graph_of(nodes))


@hostile(DONE)
def operator_that_nobody_knows(folder: pathlib.Path) -> None:
    model = graph_of([node("Mystery", ["x"], ["y"], domain="elsewhere")])
    model.opset_import.add(domain="elsewhere", version=1)
    write(folder, model)


_FOREVER = """
        n = Constant <value_int = 9223372036854775807> ()
        c = Constant <value = bool {1}> ()"""


@hostile(DONE)
def endless_loop(folder: pathlib.Path) -> None:
    """Said to be unverified: a run may take what a model of its size needs."""
    text = """
        y = Loop (n, c, x) <body = step (int64 i, bool k, float[B, 4] a) => (bool l, float[B, 4] b)
            { l = Identity (k)  b = Neg (a) }>"""
    write(folder, body(_FOREVER + text))


@hostile(DONE)
def endless_loop_over_constants(folder: pathlib.Path) -> None:
    """Whoever folds constants would never be done."""
    text = """
        w = Constant <value = float[1] {1.0}> ()
        z = Loop (n, c, w) <body = step (int64 i, bool k, float[1] a) => (bool l, float[1] b)
            { l = Identity (k)  b = Neg (a) }>
        y = Add (x, z)"""
    write(folder, body(_FOREVER + text))


@hostile(DONE)
def endless_loop_until_told(folder: pathlib.Path) -> None:
    """Without a number of trips; the condition stays true."""
    text = """
        y = Loop (, c, x) <body = step (int64 i, bool k, float[B, 4] a) => (bool l, float[B, 4] b)
            { s = ReduceMax <keepdims = 0> (a)  l = GreaterOrEqual (s, s)  b = Neg (a) }>"""
    write(folder, body(_FOREVER + text))


@hostile(DONE)
def loops_in_loops(folder: pathlib.Path) -> None:
    """Each ends after a million trips; all together do not."""
    inner = "b = Neg (a)"
    for depth in range(4):
        inner = (
            f"b = Loop (n, c, a) <body = s{depth} (int64 i{depth}, bool k{depth}, float[B, 4] a) "
            f"=> (bool l{depth}, float[B, 4] b) {{ l{depth} = Identity (k{depth})  {inner} }}>"
        )
    start = "n = Constant <value_int = 1000000> () c = Constant <value = bool {1}> () "
    write(folder, body(start + "a = Neg (x) " + inner + " y = Neg (b)"))


@hostile(DONE, CRASHED)
def loop_that_piles_up_its_results(folder: pathlib.Path) -> None:
    text = """
        z, y = Loop (n, c, x) <body = step (int64 i, bool k, float[B, 4] a)
            => (bool l, float[B, 4] b, float[B, 4] piled)
            { l = Identity (k)  b = Neg (a)  piled = Identity (b) }>"""
    write(folder, body(_FOREVER + text))
