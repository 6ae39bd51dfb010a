"""The model after each pass as an ONNX file that runs, and that Netron opens."""

from __future__ import annotations

import os
import pathlib
import re

import onnx_ir as ir

from dechaff.ir import Module, UsageError
from dechaff.passes import Pass, PassRecord

_WEIGHTS = "weights.bin"
_ALIGNMENT = 64
_SHARED_FROM = 1024
"""Smaller weights stay in the file of the graph."""


class SnapshotWriter:
    """Writes files that share one file of weights; see ``PassObserver``.

    Args:
        folder: where they go; it is made, or is empty.

    Raises:
        UsageError: the folder holds something, or cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._places: dict[int, tuple[ir.TensorProtocol, int, int]] = {}
        self._index = 0
        self._begun = False
        try:
            self._folder.mkdir(exist_ok=True)
            if any(self._folder.iterdir()):
                raise UsageError(f"snapshots go to an empty folder; {self._folder} holds something")
        except OSError as error:
            raise UsageError(f"cannot write snapshots to {folder}: {error.strerror}") from error

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Note which pass runs."""
        self._index = index + 1

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """Write the graph; nothing to say against the pass."""
        if not self._begun:
            self._begun = True
            self._write(before, "00-imported")
        self._write(after, f"{self._index:02}-{record.name.partition('{')[0]}")
        return None

    def lowered(self, module: Module) -> None:
        """Write what the runtime gets."""
        self._write(module, f"{self._index + 1:02}-lowered")

    def _write(self, module: Module, name: str) -> None:
        path = self._folder / (re.sub(r"[^\w.-]+", "-", name) + ".onnx")
        try:
            self._save(module, path)
        except OSError as error:
            self._discard()
            raise UsageError(
                f"cannot write {path}: {error.strerror}; the snapshots before it are deleted"
            ) from error

    def _discard(self) -> None:
        """Leave nothing of a series that breaks off: the folder was empty."""
        for path in [*self._folder.glob("*.onnx"), self._folder / _WEIGHTS]:
            path.unlink(missing_ok=True)

    def _save(self, module: Module, path: pathlib.Path) -> None:
        model = module.model.clone()
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and _is_shared(tensor):
                    value.const_value = self._shared(tensor, value.name or "")
        ir.save(model, path)

    def _shared(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        if id(tensor) not in self._places:
            # The tensor is kept so that its id stays its own.
            self._places[id(tensor)] = (tensor, *self._append(tensor.tobytes()))
        _, offset, length = self._places[id(tensor)]
        return ir.ExternalTensor(
            _WEIGHTS,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=self._folder,
        )

    def _append(self, content: bytes) -> tuple[int, int]:
        with open(self._folder / _WEIGHTS, "ab") as file:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            offset = file.tell()
            file.write(content)
        return offset, len(content)


def _is_shared(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype is not ir.DataType.STRING and tensor.nbytes >= _SHARED_FROM
