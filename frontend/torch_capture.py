"""Capture of a torch module by ``torch.export``, with as many variable sizes as torch allows."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from dechaff.ir import UsageError

from .torch_arguments import Arguments, bind
from .torch_axes import Axis, InputSignature, distinct_sizes, name_axes, resize
from .torch_program_repairs import experts_in_standard_operators
from .torch_ranges import ranges_as_found
from .torch_reports import capture_failure

_LOG = logging.getLogger("dechaff.frontend")
_MAX_REFINEMENTS = 6
_SUGGESTION = re.compile(r"^\s*(\w+) = (.+)$")


@dataclasses.dataclass(frozen=True)
class Capture:
    """A captured program and the names its caller or we chose for axes of its inputs."""

    program: ExportedProgram
    axis_names: Mapping[Axis, str]


class _SpecializedError(Exception):
    """torch found that some of the named sizes can only have one value."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


def capture(module: torch.nn.Module, arguments: Arguments, dynamic_shapes: Any) -> Capture:
    """Capture a module in evaluation mode; its training flags are restored.

    Raises:
        ModelRejectedError: torch cannot capture it; the message has the line of the model's source.
    """
    training = [part for part in module.modules() if part.training]
    if training:
        _LOG.warning(
            "%s is in training mode: it is captured in evaluation mode", type(module).__name__
        )
    module.eval()
    try:
        with quiet(), torch.no_grad(), experts_in_standard_operators(module):
            if dynamic_shapes == "auto":
                return _capture_auto(module, arguments)
            program = _export(module, arguments, dynamic_shapes)
            return Capture(program, _given_names(module, arguments, dynamic_shapes))
    except (UsageError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise capture_failure(module, error) from error
    finally:
        for part in training:
            part.training = True


def _capture_auto(module: torch.nn.Module, arguments: Arguments) -> Capture:
    signatures = input_signatures(module, arguments)
    names = name_axes(signatures)
    while names:
        try:
            program = _capture_named(module, _resized(arguments, signatures, names), names)
            return Capture(program, names)
        except _SpecializedError as error:
            names = _without(signatures, names, error.names)
        except GuardOnDataDependentSymNode:
            # Where the model computes with a length as a value, only fixed lengths help.
            names_of_rows = {axis: name for axis, name in names.items() if axis[1] == 0}
            if not names_of_rows or len(names_of_rows) == len(names):
                raise
            _LOG.warning(
                "%s branches on values: its lengths stay those of the example",
                type(module).__name__,
            )
            names = names_of_rows
        except Exception as error:
            _LOG.info("capture with named sizes failed: %s", error)
            break
    names = name_axes(signatures)
    for example in (_resized(arguments, signatures, names), arguments):
        shapes = dict.fromkeys(names, Dim.AUTO)
        # Only torch can say what these exceptions mean; the static attempt reports what is left.
        with contextlib.suppress(Exception):
            return Capture(_export(module, example, _collect(module, example, shapes)), names)
    program = _export(module, arguments, None)
    if names:
        _LOG.warning(
            "%s could be captured only with the sizes of the example", type(module).__name__
        )
    return Capture(program, {})


def _without(
    signatures: Sequence[InputSignature], names: Mapping[Axis, str], fixed: frozenset[str]
) -> dict[Axis, str]:
    """Drop names that torch found to be constants.

    An axis that counts features by its meaning may have been named by accident and have dragged
    others along: float inputs lose the name first.
    """
    floats = {item.leaf for item in signatures if item.dtype.is_floating_point}
    doubtful = {axis for axis, name in names.items() if name in fixed and axis[0] in floats}
    certain = {axis for axis, name in names.items() if name in fixed and axis not in doubtful}
    dropped = doubtful if doubtful and certain else doubtful | certain
    return {axis: name for axis, name in names.items() if axis not in dropped}


def input_signatures(module: torch.nn.Module, arguments: Arguments) -> list[InputSignature]:
    """One signature per tensor among the arguments."""
    named = bind(inspect.signature(module.forward), arguments)
    owner = {id(leaf): name for name, value in named.items() for leaf in pytree.tree_leaves(value)}
    return [
        InputSignature(position, owner.get(id(leaf), ""), tuple(leaf.shape), leaf.dtype)
        for position, leaf in enumerate(arguments.leaves())
        if isinstance(leaf, torch.Tensor)
    ]


def _resized(
    arguments: Arguments, signatures: Sequence[InputSignature], names: Mapping[Axis, str]
) -> Arguments:
    leaves = arguments.leaves()
    kept = {name: leaves[leaf].shape[axis] for (leaf, axis), name in names.items()}
    sizes = distinct_sizes(kept)
    for signature in signatures:
        wanted = [
            sizes[names[signature.leaf, axis]] if (signature.leaf, axis) in names else size
            for axis, size in enumerate(leaves[signature.leaf].shape)
        ]
        leaves[signature.leaf] = resize(leaves[signature.leaf], wanted)
    return arguments.with_leaves(leaves)


def _capture_named(
    module: torch.nn.Module, arguments: Arguments, names: Mapping[Axis, str]
) -> ExportedProgram:
    """Export with one ``Dim`` per name, following torch's suggestions on what they stand for.

    Raises:
        _SpecializedError: torch says that some names can have one value only.
    """
    dims = {name: Dim(name) for name in dict.fromkeys(names.values())}
    shapes = _collect(module, arguments, {axis: dims[name] for axis, name in names.items()})
    for _ in range(_MAX_REFINEMENTS):
        try:
            with ranges_as_found(dims.values()):
                return _export(module, arguments, shapes)
        except GuardOnDataDependentSymNode:
            raise
        except Exception as error:
            suggestions = _suggestions(str(error))
            if not suggestions:
                raise
            fixed = frozenset(name for name, value in suggestions.items() if value.isdigit())
            if fixed:
                raise _SpecializedError(fixed) from None
            text = "\n".join(f"{name} = {value}" for name, value in suggestions.items())
            shapes = refine_dynamic_shapes_from_suggested_fixes(f"Suggested fixes:\n{text}", shapes)
    return _export(module, arguments, shapes)


def _suggestions(message: str) -> dict[str, str]:
    _, found, rest = message.partition("Suggested fixes:\n")
    suggestions: dict[str, str] = {}
    for line in rest.splitlines() if found else ():
        match = _SUGGESTION.match(line)
        if match is None:
            break
        suggestions[match[1]] = match[2]
    return suggestions


def _collect(module: torch.nn.Module, arguments: Arguments, shapes: Mapping[Axis, Any]) -> Any:
    """The nesting that torch wants, for any structure of the arguments."""
    collection: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    for position, leaf in enumerate(arguments.leaves()):
        spec = {axis: dim for (owner, axis), dim in shapes.items() if owner == position}
        if isinstance(leaf, torch.Tensor) and spec:
            collection[leaf] = spec
    return collection.dynamic_shapes(module, arguments.args, arguments.kwargs)


def _export(module: torch.nn.Module, arguments: Arguments, shapes: Any) -> ExportedProgram:
    return torch.export.export(
        module, arguments.args, arguments.kwargs, dynamic_shapes=shapes, strict=False
    )


def _given_names(
    module: torch.nn.Module, arguments: Arguments, dynamic_shapes: Any
) -> dict[Axis, str]:
    """Names of the ``Dim`` objects that the caller gave for arguments that are tensors."""
    named = bind(inspect.signature(module.forward), arguments)
    if isinstance(dynamic_shapes, Mapping):
        given: dict[str, Any] = dict(dynamic_shapes)
    elif isinstance(dynamic_shapes, tuple | list):
        given = dict(zip(named, dynamic_shapes, strict=False))
    else:
        return {}
    position = {id(leaf): index for index, leaf in enumerate(arguments.leaves())}
    names: dict[Axis, str] = {}
    for argument, spec in given.items():
        axes = spec.items() if isinstance(spec, Mapping) else enumerate(spec or ())
        for axis, dim in axes:
            if isinstance(dim, Dim) and isinstance(named.get(argument), torch.Tensor):
                names[position[id(named[argument])], axis] = dim.__name__
    return names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's and the exporter's own messages back: what matters is raised or logged by us."""
    chatty = ("torch", "onnxscript", "onnx_ir")
    loggers = [
        logging.getLogger(name)
        for name in [*chatty, *logging.root.manager.loggerDict]
        if name.split(".")[0] in chatty
    ]
    before = [(logger, logger.disabled, logger.level) for logger in loggers]
    for logger in loggers:
        logger.disabled = True
        logger.setLevel(logging.CRITICAL)  # loggers born inside inherit it
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled, level in before:
            logger.disabled = disabled
            logger.setLevel(level)
