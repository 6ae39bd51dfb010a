"""The pass ``quantize-blockwise``: every component in integers of blocks, without retraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value, unload_mapped

from .pass_base import Numerics, Pass
from .pass_context import ActivationWalk
from .quantization.blockwise_functions import (
    RULE,
    block_of,
    quantize_function,
    quantize_vectors,
)
from .quantization.blockwise_storage import (
    store_exponents,
    table_grid,
)
from .quantization.dense_layers import DenseLayer, dense_layers, layers_by_input
from .quantization.layer_rounding import factorize, gather_hessian
from .quantization.power_grids import PowerGrid
from .quantization.rounding import Integers
from .quantization.storage import store_array, store_integers
from .quantization.tables import lookup_tables, packed_table
from .rewriter import GraphBuilder, Rewriter

_METHODS = ("rtn", "gptq")
_GROUPS = (0, 16, 32, 64, 128, 256)
_BLOCKS = (16, 32, 64, 128)
_SUM_BITS = 30
_MOST_GUARD_BITS = 8


@dataclasses.dataclass(frozen=True)
class QuantizeBlockwiseOptions:
    """Options of ``quantize-blockwise``.

    Attributes:
        bits: of the weights of dense layers, 4 or 8; those of tables are always 4.
        group: input features that share an exponent, in each output channel; 0 for all of them.
        block: neighbours in an intermediate result that share an exponent.
        method: ``rtn`` rounds weights to nearest; ``gptq`` needs calibration data.
        embeddings: whether tables of embeddings are stored in 4 bits.
        functions: whether GELU, softmax, normalizations and attention are integers too.
        exclude: layers to leave in float32, as patterns of their names separated by ``|``.
    """

    bits: int = 4
    group: int = 128
    block: int = 64
    method: str = "rtn"
    embeddings: bool = True
    functions: bool = True
    exclude: str = ""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        allowed = {"bits": (4, 8), "group": _GROUPS, "block": _BLOCKS, "method": _METHODS}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                known = ", ".join(map(str, choices))
                raise ValueError(f"{name} expects one of {known}, got {getattr(self, name)!r}")


class QuantizeBlockwise(Pass):
    """Compress every component by blocks of integers that share a power of two (BCT).

    Weights of dense layers and of embeddings take 4 bits, two to the byte of the file, with an
    exponent of four bits for each block; biases 8 bits. Intermediate results are integers of 8
    bits, those that residual sums and normalizations read of 16. GELU and softmax are tables.
    Exponents are those of least squared error; ``method=gptq`` chooses the integers by the
    calibration data. On the target ``cpu`` weights stay packed in kernels of the runtime, and
    functions are computed in float32, where that is faster and closer; ``portable`` computes with
    the integers. Source: arXiv 2304.01483, without code; choices it leaves open are ours.

    Before::

        before (int64[T] ids) => (float[T,1] y) <float[2,2] table = {7, -3, 4, 1},
            float[2,1] w = {7, -3}>
        {
            x = Gather (table, ids)
            y = MatMul (x, w)
        }

    After (the text form writes two int4 as the byte that they share, 7 and -3 as 0xD7)::

        after (int64[T] ids) => (float[T,1] y) <uint8[2,1] rows = {95, 156},
            int4[2,1] rows_exponent = {0}, int4[2,1] w = {215}, int4[1,1] w_exponent = {0}>
        {
            x = dechaff.BlockwiseGather <exponent_offset = 0> (rows, rows_exponent, ids)
            y = dechaff.BlockwiseMatMul <block_size = 0, guard_bits = 8, exponent_offset = 0>
                (x, w, w_exponent)
        }
    """

    name = "quantize-blockwise"
    numerics = Numerics.APPROXIMATE
    after = ("fold-constants", "remove-padding", "merge-qkv", "fold-attention-bias")
    options_type = QuantizeBlockwiseOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Tables, products in order of the graph, functions, and what vectors they read."""
        if self.options.embeddings:
            for value, gathers in lookup_tables(module, rewriter, RULE).items():
                self._quantize_table(value, gathers, rewriter)
        layers = list(dense_layers(module, rewriter, RULE, self.options.exclude))
        walk = None
        if self.options.method == "gptq":
            walk = rewriter.context.calibration_for(f"{self.name}{{method=gptq}}").walk(module)
        for readers in layers_by_input(layers):
            self._quantize_layers(readers, walk, rewriter)
        if self.options.functions:
            for node in list(module.graph):
                quantize_function(node, self.options.block, rewriter)
        for node in list(module.graph):
            quantize_vectors(node, rewriter)

    def _quantize_table(
        self, value: ir.Value, gathers: Sequence[ir.Node], rewriter: Rewriter
    ) -> None:
        """All that looks rows up in a table, which is stored once."""
        stored: tuple[ir.Value, ir.Value, dict[str, int]] | None = None
        for gather in gathers:
            with rewriter.rewrite("blockwise-table", [gather]) as builder:
                stored = stored or self._store_table(value, builder)
                rows, exponents, offset = stored
                operands = [rows, exponents, gather.inputs[1]]
                y = builder.op("BlockwiseGather", operands, offset, domain=DOMAIN)
                builder.replace(gather.outputs[0], y)

    def _store_table(
        self, value: ir.Value, builder: GraphBuilder
    ) -> tuple[ir.Value, ir.Value, dict[str, int]]:
        tensor = constant_value(value)
        assert tensor is not None  # it was found as a constant
        table = tensor.numpy()
        group = self.options.group
        grid = table_grid(table, group if group and table.shape[1] % group == 0 else 0)
        name = value.name or "table"
        rows = store_array(packed_table(grid.round(table.T).T), name, builder)
        return (rows, *store_exponents(grid.exponents.T, name, builder))

    def _quantize_layers(
        self, layers: list[DenseLayer], walk: ActivationWalk | None, rewriter: Rewriter
    ) -> None:
        """Layers that read one value."""
        rounder = None
        if walk is not None:
            hessian = gather_hessian(layers, walk)
            rounder = factorize(hessian, layers, RULE, rewriter, damping=0.01, act_order=True)
        for layer in layers:
            matrix = np.ascontiguousarray(layer.matrix())
            group = self.options.group
            group = group if group and len(matrix) % group == 0 else 0
            grid = PowerGrid.of(matrix, self.options.bits, group)
            integers = grid.round(matrix) if rounder is None else rounder.round(matrix, grid)
            self._store(layer, grid, integers, rewriter)
            unload_mapped([layer.weight])

    def _store(
        self, layer: DenseLayer, grid: PowerGrid, integers: Integers, rewriter: Rewriter
    ) -> None:
        name = layer.weight.name or "weight"
        rows = grid.group or len(integers)
        block = block_of(layer.x, self.options.block)
        attributes = {
            "block_size": block if rows % (block or rows) == 0 else grid.group,
            "guard_bits": _guard_bits(len(integers), grid.bits),
        }
        with rewriter.rewrite("blockwise-product", [layer.node]) as builder:
            weight = store_integers(integers, grid.bits, name, builder)
            exponents, offset = store_exponents(grid.exponents, name, builder)
            operands = [layer.x, weight, exponents]
            y = builder.op("BlockwiseMatMul", operands, {**attributes, **offset}, domain=DOMAIN)
            if layer.bias is not None:
                y = builder.op("Add", [y, layer.bias])
            builder.replace(layer.node.outputs[0], y)


def _guard_bits(features: int, bits: int) -> int:
    """How many low bits sums of ``features`` products may keep within 31 bits."""
    largest = features << (bits - 1 + 7)
    return max(0, min(_MOST_GUARD_BITS, _SUM_BITS - largest.bit_length()))
