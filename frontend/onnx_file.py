"""From ONNX files to the IR."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import onnx
import onnx.defs
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from google.protobuf.message import DecodeError

from dechaff.ir import (
    ModelRejectedError,
    Module,
    UsageError,
    find_breaches,
    stamp_origins,
    verify,
)

from .exporter_metadata import record_module_paths
from .exporter_repairs import repair_exports
from .onnx_checks import check_attributes, check_proto
from .onnx_external import bind_external_data, follow_links
from .onnx_symbols import infer_from_scratch, name_input_sizes
from .opset_upgrade import OLDEST_OPSET, upgrade_opset

_LOG = logging.getLogger("dechaff.frontend")
_TEXT_SUFFIXES = frozenset([".onnxtxt", ".onnxtext", ".txt"])
_INITIALIZERS_WERE_INPUTS = 4
_MAX_PROTOBUF = 2**31 - 1


def from_onnx(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> Module:
    """Read an ONNX model, opset 11 or newer.

    Args:
        source: path of a model (weights in external files stay there, memory-mapped) or of a
            model in ONNX text form (``.onnxtxt``, ``.txt``), or a model in memory, which is not
            changed. External weights of a ``ModelProto`` are looked for in the working directory.

    Returns:
        A module at opset 23, or at the model's own if that is newer.

    Raises:
        ModelRejectedError: the file cannot be read or is no ONNX model, weights are missing,
            damaged, ambiguous or outside the model's folder, the opset is not known, or the graph
            is malformed. One line says which.
        UsageError: ``source`` is of another type.
    """
    if isinstance(source, ir.Model):
        module = Module(source.clone(), source=source.graph.name or "model")
        bind_external_data(module.model, None, module.source)
    elif isinstance(source, onnx.ModelProto):
        module = _from_proto(source, source.graph.name or "model", None)
    elif isinstance(source, str | os.PathLike):
        module = read_onnx(source)
    else:
        raise UsageError(
            "from_onnx takes a path, an onnx.ModelProto or an onnx_ir.Model, "
            f"got {type(source).__name__}"
        )
    _normalize(module)
    return module


def read_onnx(path: str | os.PathLike[str]) -> Module:
    """Read an ONNX file, checked but as it is: nothing converted, renamed or inferred.

    Raises:
        ModelRejectedError: the file cannot be read or is no ONNX model, or weights are missing,
            damaged, ambiguous or outside the model's folder. One line says which.
    """
    place = Path(path)
    return _from_proto(_read(place), place.name, place)


def _read(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelRejectedError(f"{path}: a folder, expected an ONNX file")
        if not path.is_file():  # a pipe might never end, or never begin
            raise ModelRejectedError(f"{path}: a pipe or device, expected an ONNX file")
        if size > _MAX_PROTOBUF:
            raise ModelRejectedError(
                f"{path}: {size} bytes are more than a protobuf file can hold: the file is damaged "
                "(large weights belong in external data)"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelRejectedError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelRejectedError(f"{path}: cannot be read: {reason}") from None
    if not content:
        raise ModelRejectedError(f"{path}: the file is empty")
    if path.suffix in _TEXT_SUFFIXES:
        return _parse_text(path, content)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise ModelRejectedError(
            f"{path}: not an ONNX model, or a damaged or incomplete one"
        ) from None
    return proto


def _parse_text(path: Path, content: bytes) -> onnx.ModelProto:
    try:
        return onnx.parser.parse_model(content.decode())
    except (onnx.parser.ParseError, UnicodeDecodeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelRejectedError(f"{path}: not a model in ONNX text form: {reason}") from None


def _from_proto(proto: onnx.ModelProto, source: str, path: Path | None) -> Module:
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelRejectedError(f"{source}: not an ONNX model: it has no graph or no opset")
    check_proto(proto, source)
    if path is not None:
        path = follow_links(proto, path, source)
    try:
        model = ir.from_proto(proto)
    except MemoryError:
        raise
    except Exception as error:  # whatever the library stumbles over is wrong with the file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelRejectedError(f"{source}: malformed: {reason}") from error
    bind_external_data(model, Path.cwd() if path is None else path.parent, source)
    return Module(model, source=source)


def _normalize(module: Module) -> None:
    model = module.model
    _check_opset(module)
    if model.ir_version < _INITIALIZERS_WERE_INPUTS:
        common_passes.RemoveInitializersFromInputsPass()(model)
        model.ir_version = _INITIALIZERS_WERE_INPUTS
    _warn_of_overridable_weights(module)
    common_passes.NameFixPass()(model)
    _sort(module)
    verify(module)
    check_attributes(module)
    name_input_sizes(module)
    infer_from_scratch(module)
    upgrade_opset(module)
    repair_exports(module)
    common_passes.NameFixPass()(model)
    record_module_paths(model)
    stamp_origins(module.graph)
    infer_from_scratch(module)
    verify(module)


def _sort(module: Module) -> None:
    """Put operations in order of computation if they are not; runtimes accept that too."""
    if next(find_breaches(module), None) is None:
        return
    try:
        module.graph.sort()
    except ValueError as error:
        raise ModelRejectedError(f"{module.source}: {error}") from None


def _check_opset(module: Module) -> None:
    imports = module.model.graph.opset_imports
    if "ai.onnx" in imports:
        imports.setdefault("", imports.pop("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if module.opset > newest:
        raise ModelRejectedError(
            f"{module.source}: opset {module.opset} is newer than the installed onnx "
            f"{onnx.__version__} knows ({newest}): upgrade onnx"
        )
    if module.opset < OLDEST_OPSET:
        raise ModelRejectedError(
            f"{module.source}: opset {module.opset} is older than {OLDEST_OPSET}: export the model "
            "again, or convert it with onnx.version_converter"
        )


def _warn_of_overridable_weights(module: Module) -> None:
    overridable = [value for value in module.graph.inputs if value.is_initializer()]
    if overridable:
        _LOG.warning(
            "%s: %d graph input(s) have default values, such as %r; callers may override them, so "
            "they are not treated as constants",
            module.source,
            len(overridable),
            overridable[0].name,
        )
