"""Size on disk of a model under each of some pass lists: measured, the graph and all."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import dechaff

from .exports import Exports
from .models import ModelUnderTest


def measure_sizes(model: ModelUnderTest, pass_lists: Sequence[str]) -> Iterator[str]:
    """A line for each pass list: megabytes of the saved file, and how much smaller it is.

    Args:
        model: the model, which comes as a file.
        pass_lists: they must not need calibration data; the first is what the others are compared
            with.
    """
    yield "| passes | MB on disk | times smaller |"
    yield "| --- | ---: | ---: |"
    first = 0
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        source = Exports(model, pathlib.Path(folder)).plain(18)
        for passes in pass_lists:
            optimized = dechaff.optimize(str(source), passes=passes, verify="off", progress=False)
            size = size_on_disk(optimized)
            first = first or size
            yield f"| `{passes}` | {size / 1e6:.3f} | {first / size:.3f} |"


def size_on_disk(optimized: dechaff.OptimizedModel) -> int:
    """Bytes of all files that ``save`` writes."""
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        optimized.save(pathlib.Path(folder) / "model.onnx")
        return sum(file.stat().st_size for file in pathlib.Path(folder).iterdir())
