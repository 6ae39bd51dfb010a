"""How integers of blocks and their exponents are put into a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import DOMAIN
from dechaff.passes.rewriter import GraphBuilder

from .dense_layers import Matrix
from .power_grids import Exponents, PowerGrid
from .storage import store_integers

_VECTOR_BITS = 8
_NIBBLE = 16
VECTOR_BLOCK = 64
"""Elements of a stored vector that share an exponent, where they divide its length."""


def store_exponents(
    exponents: Exponents, name: str, builder: GraphBuilder
) -> tuple[ir.Value, dict[str, int]]:
    """A constant of exponents, of four bits where their range allows, and the offset to add."""
    least, most = int(exponents.min()), int(exponents.max())
    offset = (least + most + 1) // 2
    shifted = (exponents.astype(np.int16) - offset).astype(np.int8)
    fits = most - least < _NIBBLE and shifted.min() >= -8 and shifted.max() <= 7
    stored = store_integers(shifted, 4 if fits else 8, f"{name}_exponent", builder)
    return stored, {"exponent_offset": offset}


def store_vector(vector: npt.NDArray[np.float32], name: str, builder: GraphBuilder) -> ir.Value:
    """What stands for a vector of parameters: integers of 8 bits, restored at run time."""
    block = VECTOR_BLOCK if len(vector) % VECTOR_BLOCK == 0 else 0
    grid = PowerGrid.of(vector[:, None], _VECTOR_BITS, block)
    quantized = store_integers(grid.round(vector[:, None])[:, 0], _VECTOR_BITS, name, builder)
    exponents, offset = store_exponents(grid.exponents[:, 0], name, builder)
    return builder.op("BlockwiseRestore", [quantized, exponents], offset, domain=DOMAIN)


def table_grid(table: Matrix, group: int) -> PowerGrid:
    """Blocks along the rows of a table, float32[V, D], as a grid over its transpose."""
    return PowerGrid.of(np.ascontiguousarray(table.T), 4, group)
