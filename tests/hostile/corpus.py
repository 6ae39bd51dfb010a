"""Files from strangers, made by code: what each is, and how the program must end on it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper
import onnx.parser

DONE, REJECTED, CRASHED = 0, 3, 6

SECRET = b"the content of a file that no model may read" * 8

MakeFile = Callable[[pathlib.Path], pathlib.Path | None]
"""Makes the file and what belongs to it; returns its path, or None for ``model.onnx``."""


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One file of the corpus.

    Attributes:
        name: what is wrong with it.
        make: makes it in a folder of its own, in whose parent ``secret.bin`` lies.
        expected: exit codes that are right; several where that is the runtime's to say.
        options: further options of the command.
    """

    name: str
    make: MakeFile
    expected: tuple[int, ...]
    options: tuple[str, ...] = ()


CORPUS: list[Hostile] = []


def hostile(*expected: int, options: tuple[str, ...] = ()) -> Callable[[MakeFile], MakeFile]:
    """Add what a function makes to the corpus, under the function's name."""

    def add(make: MakeFile) -> MakeFile:
        name = make.__name__.replace("_", "-")
        CORPUS.append(Hostile(name, make, expected, options))
        return make

    return add


PLAIN = """
<ir_version: 8, opset_import: ["" : 18]>
plain (float[B, 4] x) => (float[B, 4] y)
<float[4] w = {1, 2, 3, 4}>
{
    y = Mul (x, w)
}
"""


def parse(text: str = PLAIN) -> onnx.ModelProto:
    """A model from ONNX's text form."""
    return onnx.parser.parse_model(text)


def body(nodes: str, *, opset: int = 18, x: str = "float[B, 4] x", y: str = "y") -> onnx.ModelProto:
    """A model of one input and one output of an unknown shape."""
    return parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => (float {y}) {{ {nodes} }}'
    )


def write(folder: pathlib.Path, model: onnx.ModelProto, name: str = "model.onnx") -> None:
    (folder / name).write_bytes(model.SerializeToString())


def constant(name: str, values: object, dtype: type = np.int64) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.array(values, dtype=dtype), name)
    return onnx.helper.make_node("Constant", [], [name], value=tensor)


def graph_of(
    nodes: list[onnx.NodeProto],
    *,
    shape: tuple[str | int, ...] | None = ("B", 4),
    output: str = "y",
    weights: tuple[onnx.TensorProto, ...] = (),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of nodes that take ``x`` and give ``output``."""
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        list(weights),
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
