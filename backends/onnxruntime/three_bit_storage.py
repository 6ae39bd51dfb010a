"""Weights of three bits: three in the file, four in the runtime, which has no kernel for three.

Of an integer from -4 to 3, shifted by 8 as the kernel has it, bit 2 is the opposite of bit 3. So a
byte of two weights has two bits to spare, and three bytes hold a fourth. A function that the file
has once takes them apart; the runtime does so as it loads the file, and keeps the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from dechaff.ir import Module

STORAGE_DOMAIN = "dechaff.storage"
"""Domain of functions that stay in the file."""

UNPACK = "UnpackThreeBits"
_FUNCTION = f"""
<domain: "{STORAGE_DOMAIN}", opset_import: ["" : 23]>
{UNPACK} <shape> (stored) => (packed)
{{
    own = Constant <value = uint8 {{187}}> ()
    spare = Constant <value = uint8 {{68}}> ()
    sign = Constant <value = uint8 {{136}}> ()
    one = Constant <value = uint8 {{1}}> ()
    back = Constant <value = uint8[3,1] {{0, 2, 3}}> ()
    sizes = Constant <value_ints: ints = @shape> ()

    three_bytes = BitwiseAnd (stored, own)
    parts = BitwiseAnd (stored, spare)
    raised = BitShift <direction = "LEFT"> (parts, one)
    placed = BitShift <direction = "RIGHT"> (raised, back)
    first, second, third = Split <axis = 0, num_outputs = 3> (placed)
    two_parts = BitwiseOr (first, second)
    fourth_byte = BitwiseOr (two_parts, third)
    bytes = Concat <axis = 0> (three_bytes, fourth_byte)
    opposite = BitwiseNot (bytes)
    opposite_sign = BitwiseAnd (opposite, sign)
    missing = BitShift <direction = "RIGHT"> (opposite_sign, one)
    whole = BitwiseOr (bytes, missing)
    packed = Reshape (whole, sizes)
}}
"""
_OWN = np.uint8(0xBB)
_PARTS = ((0x88, 1, "right"), (0x22, 1, "left"), (0x11, 2, "left"))
"""Bits of the fourth byte, and by how much they are shifted into the spare ones of another."""


def fits_three_bits(integers: npt.NDArray[np.int8], packed: npt.NDArray[np.uint8]) -> bool:
    """Whether weights are from -4 to 3, and their bytes can be taken four by four."""
    return packed.size % 4 == 0 and integers.min() >= -4 and integers.max() <= 3


def three_of_four(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8[3, n] that holds 4 n bytes of two weights each."""
    rows = (packed & _OWN).reshape(4, -1)
    stored = rows[:3].copy()
    for row, (bits, distance, direction) in zip(stored, _PARTS, strict=True):
        part = rows[3] & np.uint8(bits)
        row |= part >> distance if direction == "right" else part << distance
    return stored


def define_unpacking(module: Module) -> None:
    """Give the module the function that takes the bytes apart."""
    model = module.model
    if (STORAGE_DOMAIN, UNPACK, "") not in model.functions:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(_FUNCTION))
        model.functions[function.identifier()] = function
        model.graph.opset_imports[STORAGE_DOMAIN] = 1
