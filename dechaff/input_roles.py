"""What each graph input is for, told from its uses: ids of a table, a mask, lengths, or data."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.ir import Module, constant_value

from .arrays import runtime_inputs

_PASSES_INDICES_ON = frozenset(
    [
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
_SHIFTS_INDICES = frozenset(["Add", "Sub"])


class Role(enum.Enum):
    """What an input is for."""

    IDS = "ids"
    """Integers that index a table."""
    MASK = "mask"
    """Zeros and ones that say which positions carry a token."""
    LENGTHS = "lengths"
    """Number of tokens of each row."""
    DATA = "data"
    """Anything else: floats are drawn from a normal distribution, integers are zero or one."""


@dataclasses.dataclass(frozen=True)
class InputRole:
    """One graph input and what it is for.

    Attributes:
        value: the graph input.
        role: what it is for.
        num_ids: for ids, how many the smallest table has that they index.
        padding_id: for ids, the id that the graph itself compares with to find padding.
    """

    value: ir.Value
    role: Role
    num_ids: int = 0
    padding_id: int | None = None


def input_roles(module: Module) -> list[InputRole]:
    """The role of every graph input that a caller must give, in order."""
    inlined = module
    if module.model.functions:
        inlined = module.clone()
        common_passes.InlinePass()(inlined.model)
    inputs = runtime_inputs(inlined)
    tables = {value.name: _smallest_table(value) for value in inputs}
    ids_shapes = [value.shape for value in inputs if tables[value.name] is not None]
    return [_role(value, tables[value.name], ids_shapes) for value in inputs]


def _role(value: ir.Value, table: int | None, ids_shapes: list[ir.Shape | None]) -> InputRole:
    if table is not None:
        return InputRole(value, Role.IDS, max(table, 1), _padding_id(value, table))
    if _is_mask(value, ids_shapes):
        return InputRole(value, Role.MASK)
    if _is_lengths(value):
        return InputRole(value, Role.LENGTHS)
    return InputRole(value, Role.DATA)


def _is_mask(value: ir.Value, ids_shapes: list[ir.Shape | None]) -> bool:
    if value.shape is None or len(value.shape) < 2 or value.dtype is None:
        return False
    if "mask" in (value.name or "").lower():
        return len(value.shape) == 2 or value.dtype is ir.DataType.BOOL
    if len(value.shape) != 2:
        return False
    if value.dtype is ir.DataType.BOOL or value.dtype.is_integer():
        return True
    return any(value.shape == shape for shape in ids_shapes)


def _is_lengths(value: ir.Value) -> bool:
    return (
        value.shape is not None
        and len(value.shape) == 1
        and value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        and "len" in (value.name or "").lower()
    )


def _smallest_table(value: ir.Value) -> int | None:
    """Rows of the smallest table that the integers reach as indices; None if they reach none."""
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    return min(_tables(value, 0, set()), default=None)


def _tables(value: ir.Value, shift: int, seen: set[ir.Value]) -> Iterator[int]:
    if value in seen:
        return
    seen.add(value)
    for node, position in value.uses():
        if node.op_type == "Gather" and position == 1:
            rows = _num_rows(node)
            if rows is not None:
                yield rows - shift
        elif node.op_type in _PASSES_INDICES_ON:
            yield from _tables(node.outputs[0], shift, seen)
        elif node.op_type in _SHIFTS_INDICES:
            amount = _scalar(node.inputs[1 - position])
            if amount is not None:
                amount = max(amount, 0) if node.op_type == "Add" else 0
                yield from _tables(node.outputs[0], shift + amount, seen)


def _num_rows(gather: ir.Node) -> int | None:
    """Rows of the table; None where the gathered tensor is no table of weights or sizes."""
    table = gather.inputs[0]
    if table is None or table.shape is None or not len(table.shape):
        return None
    if len(table.shape) == 1 and not (table.dtype is not None and table.dtype.is_integer()):
        return None
    axis = gather.attributes["axis"].as_int() if "axis" in gather.attributes else 0
    rows = table.shape[axis]
    return rows if isinstance(rows, int) and constant_value(table) is not None else None


def _padding_id(value: ir.Value, table: int) -> int | None:
    """The id in ``ids == id`` or ``ids != id`` (which ONNX writes ``Not (Equal)``)."""
    for node, position in value.uses():
        if node.op_type != "Equal":
            continue
        candidate = _scalar(node.inputs[1 - position])
        if candidate is not None and 0 <= candidate < table:
            return candidate
    return None


def _scalar(value: ir.Value | None) -> int | None:
    tensor = constant_value(value)
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_integer():
        return None
    return int(tensor.numpy().reshape(-1)[0])
