"""What is in a model: inputs, outputs, operators, cost, attention, and what nearly fuses."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from dechaff.backends import LowBitKernel, low_bit_kernels
from dechaff.ir import Module, module_path, node_text, value_type_text
from dechaff.passes import GraphSize, Miss, measure, parse_pass_list, run_passes

from .arrays import runtime_inputs
from .nominal_sizes import evaluate, nominal_sizes, used_sizes
from .report import miss_text


@dataclasses.dataclass(frozen=True)
class Attention:
    """One attention block as the default passes leave it.

    Attributes:
        node: the op in text form.
        module_path: the torch module it computes, if the file says so.
    """

    node: str
    module_path: str


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a model contains.

    Attributes:
        source: where the model came from.
        opset: version of the standard operators, after import.
        inputs: dtype and shape by input name.
        outputs: dtype and shape by output name.
        size: operators, FLOPs, bytes and parameters of the imported graph.
        sizes: the sizes at which FLOPs are evaluated, by symbol.
        attention: attention blocks that the default passes find.
        misses: rules that nearly applied, by pass.
        kernels: what this machine has for quantized models.
    """

    source: str
    opset: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    size: GraphSize
    sizes: dict[str, float]
    attention: tuple[Attention, ...]
    misses: tuple[tuple[str, Miss], ...]
    kernels: tuple[LowBitKernel, ...]

    def to_json(self) -> str:
        """The findings as JSON."""
        data: dict[str, Any] = {
            "source": self.source,
            "opset": self.opset,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "num_ops": self.size.num_ops,
            "ops": dict(sorted(self.size.ops.items())),
            "parameters": self.size.parameters,
            "sizes": self.sizes,
            "flops": evaluate(self.size.flops, self.sizes),
            "flops_formula": str(self.size.flops),
            "attention": [dataclasses.asdict(block) for block in self.attention],
            "near_misses": [
                {"pass": name, **dataclasses.asdict(miss)} for name, miss in self.misses
            ],
            "low_bit_kernels": [dataclasses.asdict(kernel) for kernel in self.kernels],
        }
        return json.dumps(data, indent=2)

    def __rich__(self) -> ConsoleRenderable:
        sizes = ", ".join(f"{name} = {size:g}" for name, size in self.sizes.items())
        flops = evaluate(self.size.flops, self.sizes)
        return Group(
            Text(f"{self.source}: opset {self.opset}, {self.size.parameters:,} parameters"),
            self._signature(),
            self._operators(),
            Text(f"FLOPs: {self.size.flops}\n     = {flops:.4g} at {sizes}"),
            Text(f"attention blocks: {len(self.attention)}"),
            *(Text(f"  {block.node}") for block in self.attention),
            Text(f"near misses: {len(self.misses)}"),
            *(Text(f"  {name}: {miss_text(miss)}") for name, miss in self.misses),
            self._kernels(),
        )

    def _signature(self) -> Table:
        table = Table("", "name", "type")
        for kind, values in (("input", self.inputs), ("output", self.outputs)):
            for name, type_text in values.items():
                table.add_row(kind, Text(name), Text(type_text))  # brackets are no markup
        return table

    def _kernels(self) -> Table:
        table = Table("low-bit kernels here", "operator", "remark")
        for kernel in self.kernels:
            remark = kernel.remark if kernel.available else "the installed runtime has none"
            table.add_row(kernel.what, kernel.operator, remark)
        return table

    def _operators(self) -> Table:
        table = Table("operator")
        table.add_column("count", justify="right")
        for name, count in self.size.ops.most_common():
            table.add_row(Text(name), str(count))
        table.add_row("all", str(self.size.num_ops), style="bold")
        return table


def inspect_module(module: Module) -> Inspection:
    """What a module contains, and what the default passes make of it."""
    size = measure(module)
    optimized, records = run_passes(module.clone(), parse_pass_list("default"))
    return Inspection(
        source=module.source,
        opset=module.opset,
        inputs={value.name or "": value_type_text(value) for value in runtime_inputs(module)},
        outputs={value.name or "": value_type_text(value) for value in module.graph.outputs},
        size=size,
        sizes=used_sizes(nominal_sizes(module), [size]),
        attention=tuple(
            Attention(node_text(node), module_path(node))
            for node in optimized.nodes()
            if "Attention" in node.op_type
        ),
        misses=tuple((record.name, miss) for record in records for miss in record.misses),
        kernels=low_bit_kernels(),
    )
