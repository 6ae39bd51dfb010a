"""ONNX files of the model under test, each made once per run."""

from __future__ import annotations

import contextlib
import io
import logging
import pathlib
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .models import ModelUnderTest

_INPUT_NAMES = ("input_ids", "attention_mask")
_EXAMPLE_SHAPE = (2, 8)


class Exports:
    """ONNX files of one model, made when first asked for.

    Attributes:
        model: the model.
        folder: where the files lie; it must outlive the sessions that map them.
        seconds: what making the files took so far.
    """

    def __init__(self, model: ModelUnderTest, folder: pathlib.Path) -> None:
        self.model = model
        self.folder = folder
        self.seconds = 0.0

    def plain(self, opset: int) -> pathlib.Path:
        """The file that ``torch.onnx.export`` writes, batch and sequence variable."""
        path = self.folder / f"plain-{opset}.onnx"
        if not path.exists():
            with self._timed():
                export(self.model.module, path, opset)
        return path

    def fused(self, opset: int) -> pathlib.Path:
        """The plain file after onnxscript's fusions for ONNX Runtime."""
        path = self.folder / f"fused-{opset}.onnx"
        if not path.exists():
            source = self.plain(opset)
            with self._timed():
                _fuse(source, path)
        return path

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def export(model: torch.nn.Module, path: pathlib.Path, opset: int) -> None:
    """Write a model of token ids and a mask as an ONNX file; batch and sequence may vary."""
    import torch

    # Two tensors: torch.export takes one that is given twice for a single input.
    examples = {name: torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64) for name in _INPUT_NAMES}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with quiet():
        torch.onnx.export(
            model,
            (),
            str(path),
            kwargs=examples,
            input_names=_INPUT_NAMES,
            dynamic_shapes=dict.fromkeys(_INPUT_NAMES, axes),
            opset_version=opset,
            dynamo=True,
            external_data=True,
            verbose=False,
        )


def _fuse(source: pathlib.Path, path: pathlib.Path) -> None:
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with quiet():
        model, _ = optimize_for_ort(onnx_ir.load(source))
        onnx_ir.save(model, path, external_data=f"{path.name}.data")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters print and log about their own workings."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
