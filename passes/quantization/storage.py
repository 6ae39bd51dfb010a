"""How integers are put into a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.passes.rewriter import GraphBuilder

from .rounding import Integers


def store_integers(integers: Integers, bits: int, name: str, builder: GraphBuilder) -> ir.Value:
    """A constant of ``bits`` bits: 8, or at most 4; two of these share a byte."""
    store = store_array if bits == 8 else store_int4
    return store(integers, name, builder)


def store_int4(integers: Integers, name: str, builder: GraphBuilder) -> ir.Value:
    """A constant of int4, two to the byte, from int8 within -8 .. 7."""
    flat = integers.reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.int8(0))
    pairs = flat.view(np.uint8).reshape(-1, 2)
    packed = builder.keep((pairs[:, 0] & 0x0F) | ((pairs[:, 1] & 0x0F) << 4))
    tensor = ir.PackedTensor(packed, ir.DataType.INT4, shape=ir.Shape(integers.shape))
    return builder.tensor(tensor, name)


def store_array(array: npt.NDArray[np.generic], name: str, builder: GraphBuilder) -> ir.Value:
    """A constant of the array's own type."""
    return builder.tensor(ir.tensor(builder.keep(array)), name)
