"""Model files: written so that a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from dechaff.ir import ModelRejectedError, Module, UsageError, ValidPositions

from .file_replacement import data_file_name, replace_file, replace_with_data, staging_folder

_STAGED_DATA = "weights"

_MAX_EMBEDDED_BYTES = 1_500_000_000
"""Weights above this go to a file of their own: a protobuf message ends at 2 GB."""
_MAX_READ_EMBEDDED_BYTES = 250_000_000
"""The same for a model that came with such a file: in one, all of it is in memory twice."""

_VALID_POSITIONS_KEY = "dechaff.valid_positions"


def save_module(
    module: Module,
    path: str | os.PathLike[str],
    *,
    metadata: dict[str, str],
    external_data: bool | None = None,
) -> None:
    """Write a module as an ONNX file.

    Args:
        module: the module; it is not changed.
        path: where to; an existing file is replaced once the new one is complete.
        metadata: entries for the model's ``metadata_props``.
        external_data: whether weights go to a file beside it, ``NAME.onnx.DIGEST.data``; None
            decides by size. The file of the model that is replaced goes.

    Raises:
        UsageError: the folder cannot be written to, the disk is full, or the model would overwrite
            a file that it reads weights from.
    """
    target = pathlib.Path(path)
    model = module.model.clone()
    model.metadata_props.update(metadata)
    model.metadata_props[_VALID_POSITIONS_KEY] = json.dumps(
        [dataclasses.astuple(item) for item in module.valid_positions]
    )
    read = _files_read(model)
    if external_data is None:
        most = _MAX_READ_EMBEDDED_BYTES if read else _MAX_EMBEDDED_BYTES
        external_data = _weight_bytes(model) > most
    if os.path.realpath(target) in read:
        raise UsageError(
            f"cannot write {target}: it holds weights that this model reads; choose another name"
        )
    with staging_folder(target) as folder:
        staged, data = folder / target.name, folder / _STAGED_DATA
        if external_data:
            ir.save(model, staged, external_data=_STAGED_DATA)
        else:
            ir.external_data.load_to_model(model)
            ir.save(model, staged)
        if not data.exists() or not data.stat().st_size:  # small weights stay in the model
            replace_with_data(staged, target, None, "", read)
            return
        name = data_file_name(data, target)
        _name_data(staged, name)
        replace_with_data(staged, target, data, name, read)


def _name_data(path: pathlib.Path, name: str) -> None:
    """Let all external weights of a model be in the file of that name."""
    proto = onnx.load_model(path, load_external_data=False)
    for tensor in _weights_of(proto.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _weights_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _weights_of(inner)


def _files_read(model: ir.Model) -> frozenset[str]:
    """Real paths of the files in which a model's weights are."""
    return frozenset(
        os.path.realpath(value.const_value.path)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as a whole or not at all.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = pathlib.Path(path)
    with staging_folder(target) as folder:
        staged = folder / target.name
        staged.write_text(text, encoding="utf-8")
        replace_file(staged, target)


def load_module(path: str | os.PathLike[str]) -> Module:
    """Read an ONNX file as it is, valid positions included if dechaff wrote it.

    Raises:
        ModelRejectedError: no such file, not an ONNX model, or its external data is missing.
    """
    from dechaff.frontend import read_onnx

    module = read_onnx(path)
    recorded = module.model.metadata_props.get(_VALID_POSITIONS_KEY, "[]")
    try:
        module.valid_positions = [ValidPositions(*pair) for pair in json.loads(recorded)]
    except (ValueError, TypeError) as error:
        raise ModelRejectedError(
            f"{module.source}: its metadata entry {_VALID_POSITIONS_KEY} is damaged: {recorded!r}"
        ) from error
    return module


def _weight_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
