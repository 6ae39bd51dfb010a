"""Shape bombs, small files that ask for terabytes, and steps of zero."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import numpy as np
import onnx.helper

from .corpus import CRASHED, DONE, REJECTED, constant, graph_of, hostile, write

node = onnx.helper.make_node
ENDED = (DONE, REJECTED, CRASHED)
"""The model runs on no machine: an error, or an output that is said to be unverified."""


@hostile(*ENDED)
def tile_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [constant("n", [2**40, 1]), node("Tile", ["x", "n"], ["y"])]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def tile_of_a_constant(folder: pathlib.Path) -> None:
    """Constant folding would make it."""
    nodes = [
        constant("one", [1.0], np.float32), constant("n", [2**42]),
        node("Tile", ["one", "n"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def expand_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("one", [1.0], np.float32), constant("n", [2**21, 2**21]),
        node("Expand", ["one", "n"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def constant_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("n", [2**42]), node("ConstantOfShape", ["n"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def constant_of_three_gigabytes(folder: pathlib.Path) -> None:
    """Small enough for a machine, too large for a file of 200 bytes."""
    nodes = [
        constant("n", [3 * 2**28]), node("ConstantOfShape", ["n"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def constant_of_a_negative_size(folder: pathlib.Path) -> None:
    nodes = [constant("n", [-1, 4]), node("ConstantOfShape", ["n"], ["y"])]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def sizes_that_overflow(folder: pathlib.Path) -> None:
    nodes = [constant("n", [2**62, 2**62, 2**62]), node("ConstantOfShape", ["n"], ["y"])]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def range_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("start", 0.0, np.float32), constant("stop", 1e13, np.float32),
        constant("step", 1.0, np.float32), node("Range", ["start", "stop", "step"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def range_with_a_step_of_zero(folder: pathlib.Path) -> None:
    nodes = [
        constant("start", 0), constant("stop", 10), constant("step", 0),
        node("Range", ["start", "stop", "step"], ["r"]),
        node("Cast", ["r"], ["f"], to=1), node("Add", ["x", "f"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def one_hot_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("i", [0, 1]), constant("depth", 2**42), constant("v", [0, 1], np.float32),
        node("OneHot", ["i", "depth", "v"], ["big"]),
        node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def pad_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [constant("p", [0, 0, 2**40, 0]), node("Pad", ["x", "p"], ["y"])]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def resize_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("s", [1.0, 1.0, 1e6, 1e6], np.float32),
        node("Resize", ["x", "", "s"], ["y"]),
    ]
    write(folder, graph_of(nodes, shape=(1, 1, 4, 4)))


@hostile(*ENDED)
def doubling_fifty_times(folder: pathlib.Path) -> None:
    names = ["x", *(f"v{index}" for index in range(49)), "y"]
    pairs = itertools.pairwise(names)
    nodes = [node("Concat", [a, a], [b], axis=0) for a, b in pairs]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def doubling_a_constant_fifty_times(folder: pathlib.Path) -> None:
    names = ["one", *(f"v{index}" for index in range(49)), "big"]
    pairs = itertools.pairwise(names)
    nodes = [constant("one", [1.0], np.float32)]
    nodes += [node("Concat", [a, a], [b], axis=0) for a, b in pairs]
    nodes += [node("ReduceSum", ["big"], ["sum"]), node("Add", ["x", "sum"], ["y"])]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def outer_product_of_terabytes(folder: pathlib.Path) -> None:
    nodes = [
        constant("n", [2**21, 1]), constant("m", [1, 2**21]),
        node("ConstantOfShape", ["n"], ["a"]), node("ConstantOfShape", ["m"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("ReduceSum", ["c"], ["sum"]), node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def input_of_terabytes(folder: pathlib.Path) -> None:
    """Verification makes inputs by the signature."""
    write(folder, graph_of([node("Neg", ["x"], ["y"])], shape=(2**20, 2**20)))


@hostile(*ENDED)
def input_of_a_thousand_axes(folder: pathlib.Path) -> None:
    write(folder, graph_of([node("Neg", ["x"], ["y"])], shape=tuple(["B"] * 1000)))


def image(op_type: str, folder: pathlib.Path, **attributes: Any) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 2, 2), np.float32), "w")
    inputs = ["x", "w"] if op_type == "Conv" else ["x"]
    nodes = [node(op_type, inputs, ["y"], **attributes)]
    weights = (weight,) if op_type == "Conv" else ()
    write(folder, graph_of(nodes, shape=(1, 1, 8, 8), weights=weights))


@hostile(*ENDED)
def convolution_with_strides_of_zero(folder: pathlib.Path) -> None:
    image("Conv", folder, strides=[0, 0])


@hostile(*ENDED)
def convolution_with_dilations_of_zero(folder: pathlib.Path) -> None:
    image("Conv", folder, dilations=[0, 0])


@hostile(*ENDED)
def convolution_of_zero_groups(folder: pathlib.Path) -> None:
    image("Conv", folder, group=0)


@hostile(*ENDED)
def pooling_with_strides_of_zero(folder: pathlib.Path) -> None:
    image("MaxPool", folder, kernel_shape=[2, 2], strides=[0, 0])


@hostile(*ENDED)
def pooling_with_a_kernel_of_zero(folder: pathlib.Path) -> None:
    image("AveragePool", folder, kernel_shape=[0, 0])


@hostile(*ENDED)
def pooling_with_pads_of_gigabytes(folder: pathlib.Path) -> None:
    image("AveragePool", folder, kernel_shape=[2, 2], pads=[2**30, 2**30, 2**30, 2**30])


@hostile(*ENDED)
def slice_with_steps_of_zero(folder: pathlib.Path) -> None:
    nodes = [
        constant("a", [0]), constant("b", [4]), constant("axes", [1]), constant("step", [0]),
        node("Slice", ["x", "a", "b", "axes", "step"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def gather_far_outside(folder: pathlib.Path) -> None:
    nodes = [constant("i", [2**62, -(2**62)]), node("Gather", ["x", "i"], ["y"], axis=1)]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def split_into_minus_one(folder: pathlib.Path) -> None:
    nodes = [constant("s", [-1, 5]), node("Split", ["x", "s"], ["y", "z"], axis=1)]
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def division_of_integers_by_zero(folder: pathlib.Path) -> None:
    nodes = [
        constant("a", [7]), constant("zero", [0]), node("Div", ["a", "zero"], ["d"]),
        node("Mod", ["a", "zero"], ["m"]), node("Add", ["d", "m"], ["i"]),
        node("Cast", ["i"], ["f"], to=1), node("Add", ["x", "f"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def division_of_the_least_integer(folder: pathlib.Path) -> None:
    """Minus 2^63 divided by minus one is no number of 64 bits: processors raise a fault."""
    nodes = [
        constant("a", [-(2**63)]), constant("b", [-1]),
        node("Shape", ["x"], ["s"]), node("Sub", ["s", "s"], ["nil"]),
        node("Add", ["nil", "a"], ["c"]), node("Div", ["c", "b"], ["i"]),
        node("Cast", ["i"], ["f"], to=1), node("ReduceSum", ["f"], ["t"]),
        node("Add", ["x", "t"], ["y"]),
    ]  # fmt: skip
    write(folder, graph_of(nodes))


@hostile(*ENDED)
def attention_of_zero_heads(folder: pathlib.Path) -> None:
    nodes = [node("Attention", ["x", "x", "x"], ["y"], q_num_heads=0, kv_num_heads=0)]
    write(folder, graph_of(nodes, shape=("B", "S", 8), opset=23))
