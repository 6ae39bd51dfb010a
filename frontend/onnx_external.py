"""Weights in files of their own: found, checked, and left where they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from dechaff.ir import ModelRejectedError

from .onnx_checks import tensors_of


def follow_links(proto: onnx.ModelProto, path: Path, source: str) -> Path:
    """The model's file, or what it links to if its weights are links to files beside that.

    Download caches keep all files in one folder and give models as links to them. The locations in
    ``proto`` are changed to the names of the files there.
    """
    real = Path(os.path.realpath(path))
    locations = [
        entry
        for owner in (proto.graph, *proto.functions)
        for tensor in tensors_of(owner, 0, source)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    if real == path.absolute() or any("\0" in entry.value for entry in locations):
        return path
    targets = [Path(os.path.realpath(path.parent / entry.value)) for entry in locations]
    is_cache = all(
        target.parent == real.parent and (path.parent / entry.value).is_symlink()
        for target, entry in zip(targets, locations, strict=True)
    )
    if not is_cache:
        return path
    for target, entry in zip(targets, locations, strict=True):
        entry.value = target.name
    return real


def bind_external_data(model: ir.Model, folder: Path | None, source: str) -> None:
    """Find the external weights and check that each can be read when it is needed.

    Args:
        model: the model; its external tensors learn their folder.
        folder: where the model is; None if its tensors know already.
        source: the model's name, for messages.

    Raises:
        ModelRejectedError: a file is missing or too short, or lies outside the model's folder; hard
            links count as outside, since they may lead anywhere.
    """
    for tensor in _external_tensors(model):
        location = os.fspath(tensor.location)
        where = f"{source}: tensor {tensor.name!r}: external data file {location!r}"
        if folder is not None:
            tensor.base_dir = os.path.realpath(folder)
        _check_location(Path(os.path.realpath(tensor.base_dir or ".")), location, where)
        _check_extent(tensor, _file_size(Path(tensor.path), where), where)


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    owners: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for owner in owners:
        for node in owner.all_nodes():
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type is ir.AttributeType.TENSOR:
                    tensors = [attribute.as_tensor()]
                elif attribute.type is ir.AttributeType.TENSORS:
                    tensors = list(attribute.as_tensors())
                else:
                    continue
                yield from (item for item in tensors if isinstance(item, ir.ExternalTensor))


def _check_location(root: Path, location: str, where: str) -> None:
    if not location or "\0" in location or os.path.isabs(location):
        raise ModelRejectedError(f"{where} is not a path relative to the model")
    lexical = Path(os.path.normpath(root / location))
    real = Path(os.path.realpath(lexical))
    if not lexical.is_relative_to(root) or not real.is_relative_to(root):
        raise ModelRejectedError(
            f"{where} lies outside the model's folder {root}: copy it beside the model"
        )


def _file_size(path: Path, where: str) -> int:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe might never end, or never begin
            raise ModelRejectedError(f"{where} cannot be read: it is no regular file")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ModelRejectedError(f"{where} is missing from {path.parent}") from None
    except OSError as error:
        raise ModelRejectedError(f"{where} cannot be read: {error.strerror}") from None
    if status.st_nlink > 1:
        raise ModelRejectedError(
            f"{where} has {status.st_nlink} hard links, so that it may belong elsewhere: copy it"
        )
    return status.st_size


def _check_extent(tensor: ir.ExternalTensor, file_size: int, where: str) -> None:
    offset, needed = tensor.offset or 0, tensor.nbytes
    length = needed if tensor.length is None else tensor.length
    if length != needed:
        raise ModelRejectedError(
            f"{where} is to give {length} bytes, the tensor's shape needs {needed}: the model is "
            "damaged"
        )
    if offset < 0 or offset + needed > file_size:
        raise ModelRejectedError(
            f"{where} is incomplete: bytes {offset} to {offset + needed} are needed, it has "
            f"{file_size}"
        )
