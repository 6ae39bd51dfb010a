"""From a captured torch program to a module of the IR."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
import torch.utils._pytree as pytree
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, SymIntArgument

from dechaff.ir import (
    InputRejectedError,
    ModelRejectedError,
    Module,
    UsageError,
    infer_shapes,
    stamp_origins,
    verify,
)

from .exporter_metadata import record_module_paths
from .exporter_optimization import optimize_export
from .exporter_repairs import repair_exports
from .torch_arguments import (
    Arguments,
    bind,
    generate_example_inputs,
    parse_example_inputs,
    signature_of,
)
from .torch_calling import CapturedArgument, Fixed, GraphInput, TorchCallingConvention
from .torch_capture import Capture, capture, quiet
from .torch_onnx_exporter import export_to_onnx
from .torch_program_repairs import grouped_heads_declared
from .torch_reports import conversion_failure
from .torch_symbols import rename_symbols, symbol_names, symbol_ranges


def import_module(module: Any, example_inputs: Any, dynamic_shapes: Any) -> Module:
    """See :func:`dechaff.frontend.from_torch`."""
    if isinstance(module, ExportedProgram):
        if module.example_inputs is None:
            raise UsageError("the ExportedProgram does not hold the inputs it was captured with")
        arguments = Arguments(*module.example_inputs)
        return _convert(
            Capture(module, {}), signature_of(module), arguments, "torch ExportedProgram"
        )
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            "from_torch takes a torch.nn.Module or a torch.export.ExportedProgram, "
            f"got {type(module).__name__}"
        )
    module = getattr(module, "_orig_mod", module)  # torch.compile wraps what can be captured
    signature = inspect.signature(module.forward)
    if example_inputs is None:
        arguments = generate_example_inputs(module)
    else:
        arguments = parse_example_inputs(example_inputs)
    try:
        bind(signature, arguments)
    except InputRejectedError as error:
        raise UsageError(f"{type(module).__name__}: example_inputs: {error}") from None
    captured = capture(module, arguments, dynamic_shapes)
    return _convert(captured, signature, arguments, f"torch {type(module).__name__}")


def _convert(
    captured: Capture, signature: inspect.Signature, arguments: Arguments, name: str
) -> Module:
    program = captured.program
    try:
        with (
            quiet(),
            torch.no_grad(),
            _tensors_only(program),
            grouped_heads_declared(program),
        ):
            exported = export_to_onnx(program)
            optimize_export(exported.model)
    except Exception as error:
        with quiet():
            failure = conversion_failure(name, program, error)
        raise failure from error
    module = Module(exported.model, source=name)
    _lay_out_weights(module.graph)
    input_leaves = _input_leaves(program)
    names = symbol_names(
        program,
        [leaf if isinstance(leaf, str) else None for leaf in input_leaves],
        captured.axis_names,
    )
    rename_symbols(module.model, names)
    module.symbols.update(symbol_ranges(program, names))
    results = _name_results(module, program)
    inputs = _name_inputs(module, input_leaves)
    module.calling_convention = TorchCallingConvention(
        signature=signature,
        arguments=_captured_arguments(signature, arguments, inputs),
        result_structure=program.call_spec.out_spec,
        results=results,
        integer_results=_integer_results(program, results),
    )
    infer_shapes(module)
    repair_exports(module)
    common_passes.NameFixPass()(module.model)
    record_module_paths(module.model)
    stamp_origins(module.graph)
    verify(module)
    return module


@contextlib.contextmanager
def _tensors_only(program: ExportedProgram) -> Iterator[None]:
    """Hide results that are Python values from the exporter, which knows None but no others."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    before = output.args
    results = (item if isinstance(item, torch.fx.Node) else None for item in output.args[0])
    output.args = (tuple(results),)
    try:
        yield
    finally:
        output.args = before


def _lay_out_weights(graph: ir.Graph) -> None:
    """Store in row-major order what torch holds as a transposed view, as every reader expects."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.numpy().flags.c_contiguous:
            continue
        array = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)


def _input_leaves(program: ExportedProgram) -> list[str | Fixed]:
    """What each leaf of the call became: a graph input, by name, or a fixed value."""
    return [
        Fixed(spec.arg.value) if isinstance(spec.arg, ConstantArgument) else spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]


def _name_inputs(module: Module, leaves: Sequence[str | Fixed]) -> list[GraphInput | Fixed]:
    """Give graph inputs the names of the arguments they carry."""
    values = iter(module.graph.inputs)
    inputs: list[GraphInput | Fixed] = []
    for leaf in leaves:
        if isinstance(leaf, Fixed):
            inputs.append(leaf)
            continue
        value = next(values)
        _claim_name(module.graph, value, leaf)
        inputs.append(_graph_input(value))
    return inputs


def _graph_input(value: ir.Value) -> GraphInput:
    if value.dtype is None or value.shape is None:
        raise ModelRejectedError(f"graph input {value.name!r} has no known dtype and rank")
    sizes = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    return GraphInput(value.name or "", value.dtype, sizes)


def _name_results(module: Module, program: ExportedProgram) -> list[str | Fixed]:
    """Name graph outputs by their place in the result, such as ``last_hidden_state``."""
    specs = [
        spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
    ]
    taken = {spec.arg.name for spec in program.graph_signature.input_specs}
    values = iter(module.graph.outputs)
    results: list[str | Fixed] = []
    for spec, name in zip(specs, _leaf_names(program.call_spec.out_spec), strict=True):
        if isinstance(spec.arg, ConstantArgument):
            results.append(Fixed(spec.arg.value))
            continue
        while name in taken:
            name += "_output"
        taken.add(name)
        _claim_name(module.graph, next(values), name)
        results.append(name)
    return results


def _leaf_names(structure: pytree.TreeSpec) -> list[str]:
    names = ["_".join(path) for path in _leaf_paths(structure)]
    if names == [""]:
        return ["output"]
    return [f"output_{name}" if name[:1].isdigit() else name for name in names]


def _leaf_paths(structure: pytree.TreeSpec) -> Iterator[tuple[str, ...]]:
    if structure.is_leaf():
        yield ()
        return
    children = structure.children()
    keys = structure.context
    if not isinstance(keys, list | tuple) or len(keys) != len(children):
        keys = getattr(keys, "_fields", range(len(children)))  # a namedtuple says its fields
    for key, child in zip(keys, children, strict=True):
        for path in _leaf_paths(child):
            yield (str(key), *path)


def _integer_results(program: ExportedProgram, results: Sequence[str | Fixed]) -> frozenset[str]:
    specs = [
        spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
    ]
    return frozenset(
        result
        for spec, result in zip(specs, results, strict=True)
        if isinstance(spec.arg, SymIntArgument) and isinstance(result, str)
    )


def _claim_name(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Name a value; whatever has the name already gets another."""
    if value.name == name:
        return
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph.all_nodes() for output in node.outputs]
    taken = {other.name for other in values}
    for other in values:
        if other.name == name:
            number = 1
            while f"{name}_{number}" in taken:
                number += 1
            other.name = f"{name}_{number}"
            break
    value.name = name


def _captured_arguments(
    signature: inspect.Signature, arguments: Arguments, inputs: Sequence[GraphInput | Fixed]
) -> dict[str, CapturedArgument]:
    """What was captured, by argument name. ``inputs`` follow the order of the call's leaves."""
    remaining = iter(inputs)
    values: dict[object, Any] = {}
    leaves: dict[object, list[GraphInput | Fixed]] = {}
    for key, value in [*enumerate(arguments.args), *arguments.kwargs.items()]:
        values[key] = value
        leaves[key] = [next(remaining) for _ in pytree.tree_leaves(value)]
    positions = tuple(range(len(arguments.args)))
    bound = bind(signature, Arguments(positions, {key: key for key in arguments.kwargs}))
    captured: dict[str, CapturedArgument] = {}
    for name, key in bound.items():
        is_variadic = isinstance(key, tuple)  # *args
        given = tuple(values[item] for item in key) if is_variadic else values[key]
        parts = [leaf for item in (key if is_variadic else (key,)) for leaf in leaves[item]]
        captured[name] = CapturedArgument(pytree.tree_structure(given), tuple(parts))
    return captured
