"""Tensors that contradict themselves, numbers that are none, names that are no text."""

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import onnx
import onnx.numpy_helper

from .corpus import DONE, PLAIN, REJECTED, graph_of, hostile, parse, write

BREAKOUT = "b\x1b[2J\x1b]0;owned\x07\nroot"
"""A name that a terminal would obey."""


def with_weight(values: np.ndarray, op_type: str = "Mul") -> onnx.ModelProto:
    weight = onnx.numpy_helper.from_array(values, "w")
    node = onnx.helper.make_node(op_type, ["x", "w"], ["y"])
    return graph_of([node], shape=("B", len(values)), weights=(weight,))


@hostile(REJECTED)
def two_fields_of_values(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].raw_data = np.zeros(4, np.float32).tobytes()
    write(folder, model)


@hostile(REJECTED)
def values_of_another_dtype(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].ClearField("float_data")
    model.graph.initializer[0].int64_data[:] = [1, 2, 3, 4]
    write(folder, model)


@hostile(REJECTED)
def too_few_values(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].dims[:] = [2**40]
    write(folder, model)


@hostile(REJECTED)
def sizes_whose_product_overflows(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].dims[:] = [2**32, 2**32]
    model.graph.initializer[0].ClearField("float_data")
    write(folder, model)


@hostile(REJECTED, DONE)
def empty_tensor_of_vast_sizes(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].dims[:] = [2**62, 0, 2**62]
    model.graph.initializer[0].ClearField("float_data")
    write(folder, model)


@hostile(REJECTED)
def negative_size(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].dims[:] = [-4]
    write(folder, model)


@hostile(REJECTED)
def unknown_dtype(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.initializer[0].data_type = 4242
    write(folder, model)


@hostile(REJECTED)
def sparse_weight(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.sparse_initializer.add().values.name = "thin"
    write(folder, model)


@hostile(DONE)
def weights_that_are_no_numbers(folder: pathlib.Path) -> None:
    write(folder, with_weight(np.array([np.nan, 1, np.nan, 2], np.float32)))


@hostile(DONE)
def infinite_weights(folder: pathlib.Path) -> None:
    write(folder, with_weight(np.array([np.inf, -np.inf, 0, 1e-45], np.float32)))


@hostile(DONE)
def matrix_of_infinities(folder: pathlib.Path) -> None:
    write(folder, with_weight(np.full((4, 4), np.inf, np.float32), "MatMul"))


@hostile(REJECTED)
def name_that_is_no_text(folder: pathlib.Path) -> None:
    data = parse(PLAIN.replace("w", "weight")).SerializeToString()
    (folder / "model.onnx").write_bytes(data.replace(b"weight", b"\xff\xfe\xc3\x28wt"))


@hostile(REJECTED, DONE)
def graph_name_that_is_no_text(folder: pathlib.Path) -> None:
    data = parse().SerializeToString()
    (folder / "model.onnx").write_bytes(data.replace(b"plain", b"\xff\xfe\xff\xfe\xff"))


@hostile(REJECTED)
def name_that_commands_the_terminal(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.node[0].input[1] = BREAKOUT
    write(folder, model)


@hostile(REJECTED)
def output_that_commands_the_terminal(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.node[0].output[0] = model.graph.output[0].name = BREAKOUT
    model.graph.node[0].name = model.graph.name = BREAKOUT
    write(folder, model)


@hostile(REJECTED, DONE)
def name_of_ten_megabytes(folder: pathlib.Path) -> None:
    model = parse()
    model.graph.node[0].input[1] = model.graph.initializer[0].name = "n" * 10**7
    write(folder, model)


@hostile(REJECTED, DONE)
def size_that_is_a_program(folder: pathlib.Path) -> None:
    """Were the name of a size evaluated, a file would appear."""
    model = parse()
    code = f"__import__('pathlib').Path({str(folder.parent / 'owned')!r}).touch()"
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = code
    write(folder, model)


@hostile(REJECTED)
def size_that_is_a_tower_of_powers(folder: pathlib.Path) -> None:
    model = parse()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "9**9**9**9**9"
    write(folder, model)


@hostile(REJECTED)
def size_of_nested_brackets(folder: pathlib.Path) -> None:
    model = parse()
    value = model.graph.input[0]
    value.type.tensor_type.shape.dim[0].dim_param = "(" * 5000 + "B" + ")" * 5000
    write(folder, model)


@hostile(REJECTED, DONE)
def metadata_of_nonsense(folder: pathlib.Path) -> None:
    model = parse()
    model.metadata_props.add(key="dechaff.valid_positions", value='[["y", 7]]')
    for key in ("pkg.torch.onnx.name_scopes", "namespace", "pkg.torch.onnx.class_hierarchy"):
        model.graph.node[0].metadata_props.add(key=key, value="[" * 10**5)
    write(folder, model)


class _Touches:
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return pathlib.Path.touch, (self.path,)


def pickled(folder: pathlib.Path) -> bytes:
    """Were this unpickled, a file would appear."""
    return pickle.dumps(_Touches(folder.parent / "owned"))


@hostile(REJECTED)
def pickle_as_model(folder: pathlib.Path) -> None:
    (folder / "model.onnx").write_bytes(pickled(folder))


@hostile(REJECTED)
def checkpoint_as_model(folder: pathlib.Path) -> pathlib.Path:
    """What ``torch.save`` writes: a zip archive with a pickle in it."""
    import zipfile

    path = folder / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled(folder))
        archive.writestr("model/version", "3\n")
    return path


@hostile(2, options=("--inputs", "x.npz"))
def pickle_as_inputs(folder: pathlib.Path) -> None:
    write(folder, parse())
    np.savez(folder / "x.npz", x=np.array([_Touches(folder.parent / "owned")], dtype=object))


@hostile(2, options=("--inputs", "x.npz"))
def damaged_archive_as_inputs(folder: pathlib.Path) -> None:
    write(folder, parse())
    np.savez(folder / "x.npz", x=np.ones((2, 4), np.float32))
    data = (folder / "x.npz").read_bytes()
    (folder / "x.npz").write_bytes(data[:60] + b"\xff" * 40 + data[100:])


@hostile(2, options=("--config", "c.json"))
def nested_config(folder: pathlib.Path) -> None:
    write(folder, parse())
    (folder / "c.json").write_text("[" * 10**5)


@hostile(REJECTED)
def half_a_model(folder: pathlib.Path) -> None:
    data = parse().SerializeToString()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


@hostile(REJECTED)
def random_bytes(folder: pathlib.Path) -> None:
    (folder / "model.onnx").write_bytes(np.random.default_rng(0).bytes(10**6))
