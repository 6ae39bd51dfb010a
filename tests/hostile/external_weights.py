"""Weights in files that are elsewhere, damaged, or no files at all."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import onnx

from .corpus import DONE, REJECTED, SECRET, hostile, parse, write


def external(**entries: object) -> onnx.ModelProto:
    """The plain model with its weight of four floats in another file."""
    model = parse()
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))
    return model


def weights(folder: pathlib.Path, size: int = 16) -> None:
    (folder / "w.bin").write_bytes(bytes(size))


@hostile(REJECTED)
def absolute_path(folder: pathlib.Path) -> None:
    write(folder, external(location=folder.parent / "secret.bin", length=16))


@hostile(REJECTED)
def path_to_the_parent(folder: pathlib.Path) -> None:
    write(folder, external(location="../secret.bin", length=16))


@hostile(REJECTED)
def path_out_and_in_again(folder: pathlib.Path) -> None:
    (folder / "sub").mkdir()
    write(folder, external(location="sub/../../secret.bin", length=16))


@hostile(REJECTED)
def symbolic_link(folder: pathlib.Path) -> None:
    (folder / "w.bin").symlink_to("../secret.bin")
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def symbolic_link_to_a_folder(folder: pathlib.Path) -> None:
    (folder / "sub").symlink_to("..")
    write(folder, external(location="sub/secret.bin", length=16))


@hostile(REJECTED)
def symbolic_link_to_itself(folder: pathlib.Path) -> None:
    (folder / "w.bin").symlink_to("w.bin")
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def symbolic_link_to_a_device(folder: pathlib.Path) -> None:
    (folder / "w.bin").symlink_to("/dev/zero")
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def hard_link(folder: pathlib.Path) -> None:
    os.link(folder.parent / "secret.bin", folder / "w.bin")
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def pipe_as_weights(folder: pathlib.Path) -> None:
    os.mkfifo(folder / "w.bin")
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def pipe_as_model(folder: pathlib.Path) -> None:
    os.mkfifo(folder / "model.onnx")


@hostile(REJECTED)
def device_as_model(folder: pathlib.Path) -> None:
    (folder / "model.onnx").symlink_to("/dev/zero")


@hostile(REJECTED)
def offset_beyond_the_file(folder: pathlib.Path) -> None:
    weights(folder)
    write(folder, external(location="w.bin", offset=1000, length=16))


@hostile(REJECTED)
def offset_of_many_bits(folder: pathlib.Path) -> None:
    weights(folder)
    write(folder, external(location="w.bin", offset=2**64 - 8, length=16))


@hostile(REJECTED)
def negative_offset(folder: pathlib.Path) -> None:
    weights(folder, 64)
    write(folder, external(location="w.bin", offset=-16, length=16))


@hostile(REJECTED)
def offset_that_is_no_number(folder: pathlib.Path) -> None:
    weights(folder)
    write(folder, external(location="w.bin", offset="near the end", length=16))


@hostile(REJECTED)
def length_beyond_the_file(folder: pathlib.Path) -> None:
    weights(folder, 8)
    write(folder, external(location="w.bin", length=16))


@hostile(REJECTED)
def length_unlike_the_shape(folder: pathlib.Path) -> None:
    weights(folder, 10**6)
    write(folder, external(location="w.bin", length=10**6))


@hostile(REJECTED)
def shape_of_terabytes(folder: pathlib.Path) -> None:
    weights(folder)
    model = external(location="w.bin")
    model.graph.initializer[0].dims[:] = [2**20, 2**20]
    write(folder, model)


@hostile(REJECTED, DONE)
def file_of_holes(folder: pathlib.Path) -> None:
    """Zeros that take no room on the disk."""
    with (folder / "w.bin").open("wb") as file:
        file.truncate(2**26)
    model = external(location="w.bin", length=2**26)
    model.graph.initializer[0].dims[:] = [2**22, 4]
    write(folder, model)


@hostile(REJECTED)
def no_location(folder: pathlib.Path) -> None:
    write(folder, external(length=16))


@hostile(REJECTED)
def nul_in_the_location(folder: pathlib.Path) -> None:
    weights(folder)
    write(folder, external(location="w.bin\0", length=16))


@hostile(REJECTED)
def folder_as_weights(folder: pathlib.Path) -> None:
    write(folder, external(location=".", length=16))


@hostile(REJECTED)
def values_here_and_elsewhere(folder: pathlib.Path) -> None:
    weights(folder)
    model = external(location="w.bin", length=16)
    model.graph.initializer[0].raw_data = np.ones(4, np.float32).tobytes()
    write(folder, model)


@hostile(REJECTED)
def secret_in_a_constant(folder: pathlib.Path) -> None:
    """The weight is no initializer but an attribute."""
    model = external(location="../secret.bin", length=16)
    node = onnx.NodeProto(op_type="Constant", output=["w"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(model.graph.initializer[0])
    nodes = [node, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    write(folder, model)


@hostile(REJECTED)
def secret_in_a_branch(folder: pathlib.Path) -> None:
    """The weight belongs to a subgraph."""
    model = parse(
        '<ir_version: 8, opset_import: ["" : 18]> g (bool c, float[4] x) => (float[4] y) {'
        "y = If (c) <then_branch = yes () => (float[4] p) {p = Mul (x, w)},"
        "else_branch = no () => (float[4] q) {q = Neg (x)}> }"
    )
    branch = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    branch.initializer.extend(external(location="../secret.bin", length=16).graph.initializer)
    write(folder, model)


assert len(SECRET) >= 16
