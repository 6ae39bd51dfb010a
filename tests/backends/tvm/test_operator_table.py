"""Which operator runs where: every operator of the dialect on every backend, holes with reasons."""

from __future__ import annotations

import itertools

from dechaff.backends.onnxruntime.lowering import lowering_kinds
from dechaff.backends.tvm.emitters import DIALECT, STANDARD
from dechaff.backends.tvm.kernel_table import KERNELS
from dechaff.ir import dialect_ops

EXIT_OPERATORS = (
    "PackedRowSimilarity",
    "PackedTokenSummary",
    "RowSimilarity",
    "RowTokens",
    "SoftmaxEntropy",
    "SoftmaxGap",
    "TokenSummary",
)

BLOCKWISE_OPERATORS = (
    "BlockwiseAttention",
    "BlockwiseGather",
    "BlockwiseGelu",
    "BlockwiseLayerNormalization",
    "BlockwiseMatMul",
    "BlockwiseQuantize",
    "BlockwiseRestore",
    "BlockwiseRound",
    "BlockwiseSoftmax",
    "BlockwiseVarlenAttention",
    "ShiftRight",
)

DECLARED_HOLES = {
    ("LocalVarlenAttention", "tvm"): "runs as its reference function, which pads",
    ("MaskedVarlenAttention", "tvm"): "the same",
    ("TopKVarlenAttention", "tvm"): "the same",
    ("TopKVarlenAttention", "onnxruntime"): "the same",
    ("TopKMask", "tvm"): "a few standard operators",
    ("TopKMask", "onnxruntime"): "a few standard operators",
    (
        "SkipLayerNormalization",
        "onnxruntime",
    ): "the runtime's fused kernel is slower than two nodes",
    ("BiasSkipLayerNormalization", "onnxruntime"): "the same",
    ("SkipRMSNormalization", "onnxruntime"): "the same",
    ("TokenLayout", "onnxruntime"): "standard operators on small integer tensors",
    ("Unpack", "onnxruntime"): "one ScatterND",
    ("Int4Gather", "tvm"): "bytes are taken apart by a few standard operators",
    ("QuantizePerTensor", "tvm"): "generated code has no integer products yet",
    ("QuantizePerToken", "tvm"): "the same",
    ("QuantizedMatMul", "tvm"): "the same",
    **{
        (op, "tvm"): "tables and shifts run as their reference functions"
        for op in BLOCKWISE_OPERATORS
    },
    ("BlockwiseAttention", "onnxruntime"): "inside BlockwiseVarlenAttention only",
    ("BlockwiseQuantize", "onnxruntime"): "a few standard operators",
    ("BlockwiseRound", "onnxruntime"): "a few standard operators",
    ("ShiftRight", "onnxruntime"): "a few standard operators",
    **{
        (op, backend): "a few standard operators on small tensors, once for each exit"
        for op in EXIT_OPERATORS
        for backend in ("onnxruntime", "tvm")
    },
}
"""Operators without a lowering of their own: they run as their reference function."""


def lowerings(op: str) -> dict[str, str]:
    by_kernel = [kind for kind, table in KERNELS.items() if op in table]
    plain = ["plain"] if op in DIALECT else []
    return {
        "onnxruntime": ", ".join(lowering_kinds(op)),
        "tvm": ", ".join([*plain, *(f"{kind} kernel" for kind in by_kernel)]),
    }


def test_every_dialect_operator_has_a_lowering_on_every_backend_or_a_reason_not_to() -> None:
    table = {op.name: lowerings(op.name) for op in dialect_ops()}
    lines = [f"{op:28} {row['onnxruntime']:18} {row['tvm']}" for op, row in table.items()]
    print("\n".join(["operator                     onnxruntime        tvm", *lines]))
    holes = {
        (op, backend)
        for op, backend in itertools.product(table, ("onnxruntime", "tvm"))
        if not table[op][backend]
    }
    assert holes == set(DECLARED_HOLES)


def test_the_tables_name_operators_that_exist() -> None:
    import onnx.defs

    dialect = {op.name for op in dialect_ops()}
    assert set(DIALECT) <= dialect
    assert {op for op in STANDARD if not onnx.defs.has(op)} == set()
    kernels = {op for table in KERNELS.values() for op in table}
    assert kernels <= dialect | set(STANDARD)
