"""What a compiled model takes and gives; it travels inside the library, as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, SymbolRange, ValidPositions

FORMAT = 1
"""Version of the JSON's form."""


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output: name, dtype in ONNX's spelling, sizes, of which names are symbolic."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a compiled model, and what it was compiled for.

    Attributes:
        inputs: in the order in which the function takes them.
        outputs: in the order in which it gives them.
        target: TVM's target, as JSON.
        source: where the model came from, for messages.
        valid_positions: outputs whose padded positions are zero, as (output, mask, per row).
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    target: str
    source: str
    valid_positions: tuple[tuple[str, str, bool], ...] = ()

    def to_json(self) -> str:
        """The signature as JSON; :meth:`from_json` reads it back."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else, or of a later version.
        """
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("format", None) != FORMAT:
            raise ValueError(f"expected a signature of format {FORMAT}")
        return cls(
            inputs=tuple(_port(item) for item in fields["inputs"]),
            outputs=tuple(_port(item) for item in fields["outputs"]),
            target=fields["target"],
            source=fields["source"],
            valid_positions=tuple(
                (output, mask, bool(per_row)) for output, mask, per_row in fields["valid_positions"]
            ),
        )

    def to_bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The JSON as uint8[n], the form in which a library holds it."""
        return np.frombuffer(self.to_json().encode(), np.uint8)

    def to_module(self) -> Module:
        """A module with these inputs and outputs and no nodes: it checks what callers hand over."""
        inputs = [_value(port) for port in self.inputs]
        graph = ir.Graph(inputs, [_value(port) for port in self.outputs], nodes=[], name="compiled")
        names = {size for port in self.inputs for size in port.shape or () if isinstance(size, str)}
        return Module(
            ir.Model(graph, ir_version=10),
            symbols={name: SymbolRange() for name in sorted(names)},
            valid_positions=[ValidPositions(*item) for item in self.valid_positions],
            source=self.source,
        )


def signature_of(module: Module, target: str) -> Signature:
    """The signature of a module that is compiled for a target.

    Args:
        module: the module; every input and output has a dtype.
        target: TVM's target, as JSON.
    """
    return Signature(
        inputs=tuple(_port_of(value) for value in module.graph.inputs),
        outputs=tuple(_port_of(value) for value in module.graph.outputs),
        target=target,
        source=module.source,
        valid_positions=tuple(
            (item.output, item.mask, item.per_row) for item in module.valid_positions
        ),
    )


def _port_of(value: ir.Value) -> Port:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return Port(value.name or "", (value.dtype or ir.DataType.FLOAT).name, shape)


def _port(fields: dict[str, Any]) -> Port:
    shape = fields["shape"]
    return Port(fields["name"], fields["dtype"], None if shape is None else tuple(shape))


def _value(port: Port) -> ir.Value:
    return ir.Value(
        name=port.name,
        type=ir.TensorType(ir.DataType[port.dtype]),
        shape=None if port.shape is None else ir.Shape(port.shape),
    )
