"""Model files: written so that a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import ModelRejectedError, Module, UsageError, ValidPositions

_MAX_EMBEDDED_BYTES = 1_500_000_000
"""Weights above this go to a file of their own: a protobuf message ends at 2 GB."""

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
        external_data: whether weights go to a file beside it, named as the model with ``.data``
            added; None decides by size.

    Raises:
        UsageError: the folder cannot be written to, or the weights would overwrite the file that
            this model reads them from.
    """
    target = pathlib.Path(path)
    model = module.model.clone()
    model.metadata_props.update(metadata)
    model.metadata_props[_VALID_POSITIONS_KEY] = json.dumps(
        [[item.output, item.mask, item.per_row] for item in module.valid_positions]
    )
    if external_data is None:
        external_data = _weight_bytes(model) > _MAX_EMBEDDED_BYTES
    data_name = f"{target.name}.data" if external_data else None
    _check_not_read_from(model, target, data_name)
    with staging_folder(target) as folder:
        staged = folder / target.name
        if data_name is None:
            ir.external_data.load_to_model(model)
            ir.save(model, staged)
        else:
            ir.save(model, staged, external_data=data_name)
            if (folder / data_name).exists():  # the data first: a model must find its weights
                os.replace(folder / data_name, target.parent / data_name)
        os.replace(staged, target)


def _check_not_read_from(model: ir.Model, target: pathlib.Path, data_name: str | None) -> None:
    written = {os.path.realpath(target)}
    if data_name is not None:
        written.add(os.path.realpath(target.parent / data_name))
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) in written:
                raise UsageError(
                    f"cannot write {target}: {tensor.path} holds weights that this model reads; "
                    "choose another name"
                )


@contextlib.contextmanager
def staging_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder beside the target, hence on the same disk; gone afterwards in any case.

    Raises:
        UsageError: there is no such place, or nothing can be written there.
    """
    try:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as a whole or not at all.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = pathlib.Path(path)
    with staging_folder(target) as folder:
        staged = folder / target.name
        staged.write_text(text, encoding="utf-8")
        os.replace(staged, target)


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
