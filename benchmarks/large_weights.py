"""``python -m benchmarks.large_weights``: a billion parameters to 4 bits, and the memory it takes.

A random model of Llama's shape is written as an ONNX file with external weights, layer by layer;
then a child process quantizes it from file to file, and its peak memory is read from the system.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from .child_process import run_child

_HEADS, _KEY_HEADS, _HIDDEN, _INNER, _VOCABULARY = 32, 4, 2048, 5632, 32000
_LAYERS = 22
_SEED = 3

_LAYER = """
    n{i} = RMSNormalization <epsilon = 1e-5> (h{i}, scale)
    q{i} = MatMul (n{i}, q_w{i})
    k{i} = MatMul (n{i}, k_w{i})
    v{i} = MatMul (n{i}, v_w{i})
    c{i} = Attention <is_causal = 1, q_num_heads = {heads}, kv_num_heads = {key_heads}>
        (q{i}, k{i}, v{i})
    o{i} = MatMul (c{i}, o_w{i})
    a{i} = Add (h{i}, o{i})
    m{i} = RMSNormalization <epsilon = 1e-5> (a{i}, scale)
    g{i} = MatMul (m{i}, gate_w{i})
    u{i} = MatMul (m{i}, up_w{i})
    s{i} = Sigmoid (g{i})
    w{i} = Mul (g{i}, s{i})
    x{i} = Mul (w{i}, u{i})
    d{i} = MatMul (x{i}, down_w{i})
    h{next} = Add (a{i}, d{i})
"""


def _weights(layers: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "table", (_VOCABULARY, _HIDDEN)
    key = _HIDDEN // _HEADS * _KEY_HEADS
    for i in range(layers):
        yield f"q_w{i}", (_HIDDEN, _HIDDEN)
        yield f"k_w{i}", (_HIDDEN, key)
        yield f"v_w{i}", (_HIDDEN, key)
        yield f"o_w{i}", (_HIDDEN, _HIDDEN)
        yield f"gate_w{i}", (_HIDDEN, _INNER)
        yield f"up_w{i}", (_HIDDEN, _INNER)
        yield f"down_w{i}", (_INNER, _HIDDEN)
    yield "head_w", (_HIDDEN, _VOCABULARY)


def write_model(folder: pathlib.Path, layers: int) -> tuple[pathlib.Path, int, int]:
    """Write the model; give its path, its bytes of weights, and those of its largest weight."""
    body = "h0 = Gather (table, ids)\n" + "".join(
        _LAYER.format(i=i, next=i + 1, heads=_HEADS, key_heads=_KEY_HEADS) for i in range(layers)
    )
    sizes = dict(_weights(layers))
    inputs = ", ".join(f"float[{rows},{columns}] {name}" for name, (rows, columns) in sizes.items())
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        llama (int64[B,S] ids, {inputs}, float[{_HIDDEN}] scale) => (float[B,S,{_VOCABULARY}] y)
        {{ {body} y = MatMul (h{layers}, head_w) }}"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    generator = np.random.default_rng(_SEED)
    offset = 0
    with (folder / "weights").open("wb") as file:
        for value in list(model.graph.inputs)[1:]:
            name = value.name or ""
            shape = sizes.get(name, (_HIDDEN,))
            array = generator.standard_normal(shape, np.float32) / np.float32(_HIDDEN**0.5)
            array = np.ones(shape, np.float32) if name == "scale" else array
            array.tofile(file)
            value.const_value = ir.ExternalTensor(
                "weights",
                offset,
                array.nbytes,
                ir.DataType.FLOAT,
                shape=ir.Shape(shape),
                name=name,
                base_dir=str(folder),
            )
            offset += array.nbytes
            model.graph.register_initializer(value)
    del model.graph.inputs[1:]
    path = folder / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path, offset, max(4 * rows * columns for rows, columns in sizes.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model, quantize it in a child and print what that took.

    Returns:
        0; 1 if more memory was held than the mapped weights and twice the largest layer.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_weights")
    parser.add_argument("--layers", type=int, default=_LAYERS)
    parser.add_argument("--method", choices=("rtn", "gptq"), default="gptq")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as name:
        folder = pathlib.Path(name)
        path, weights, largest = write_model(folder, options.layers)
        output = folder / "quantized.onnx"
        task = {
            "path": str(path),
            "output": str(output),
            "method": options.method,
            "vocabulary": _VOCABULARY,
        }
        found = run_child("benchmarks.large_weights_measurement", task)
        size = sum(file.stat().st_size for file in folder.glob("quantized*"))
    gib = 2**30
    print(f"{weights / 4e9:.2f} billion parameters, {weights / gib:.2f} GiB, {options.method}")
    print(f"largest layer {largest / gib:.2f} GiB; written {size / gib:.2f} GiB")
    print(f"peak without files {found['anonymous'] / gib:.2f} GiB")
    print(f"peak resident {found['resident'] / gib:.2f} GiB, {found['seconds']:.0f} s")
    print(*found["notes"], sep="\n")
    return 0 if found["resident"] < weights + 2 * largest else 1


if __name__ == "__main__":
    sys.exit(main())
