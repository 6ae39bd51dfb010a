"""A model's files, made once and kept: exports, and what dechaff makes of it.

``python -m benchmarks.prepared TASK RESULT`` makes them in a process of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from dechaff.settings import AUTO

from .child_process import child_result, child_task, run_child
from .exports import Exports
from .inputs import make_inputs
from .models import ModelUnderTest
from .peers import DECHAFF_PASSES, DENSE_PASSES

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PRODUCT = ("dechaff", "frontend", "ir", "passes", "backends")
EXAMPLE_SHAPE = (16, 128)
"""Rows and length of the batch that dechaff is shown: on it the runtime is chosen."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Files of one model.

    Attributes:
        name: one of ``ARCHITECTURES``.
        layers: layers, where not the model's own number.
        folder: where its exports lie.
        saved: dechaff's results by pass list.
        vocabulary: number of token ids.
        parameters: weights that each token is multiplied with, the embedding tables left out.
    """

    name: str
    layers: int | None
    folder: pathlib.Path
    saved: dict[str, pathlib.Path]
    vocabulary: int
    parameters: int

    def as_task(self) -> dict[str, Any]:
        """What a child needs to know of them, as plain data."""
        return {
            "folder": str(self.folder),
            "saved": {passes: str(path) for passes, path in self.saved.items()},
            "vocabulary": self.vocabulary,
        }


def code_digest() -> str:
    """Eight letters that change with dechaff's sources."""
    digest = hashlib.sha256()
    for folder in _PRODUCT:
        for path in sorted((_ROOT / folder).glob("**/*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def prepare(
    name: str,
    layers: int | None,
    models: pathlib.Path,
    example: tuple[int, int] = EXAMPLE_SHAPE,
) -> Prepared:
    """The files of a model, made now unless they are there; dechaff's for the present sources.

    Args:
        name: one of ``ARCHITECTURES``.
        layers: number of layers; the architecture's own if None.
        models: the folder of all models.
        example: rows and length of the batch that dechaff is shown.

    Raises:
        ChildFailedError: an export or the optimization fails.
    """
    folder = models / (name if layers is None else f"{name}-{layers}-layers")
    rows, length = example
    shown = "" if example == EXAMPLE_SHAPE else f"-{rows}x{length}"
    digest = code_digest()
    own = folder / f"dechaff-{digest}{shown}"
    for old in set(folder.glob("dechaff-*")) - set(folder.glob(f"dechaff-{digest}*")):
        shutil.rmtree(old)
    for part in (folder / "exports", own):
        if not part.exists():
            _make(name, layers, part, example)
    facts = json.loads((folder / "exports" / "model.json").read_text())
    saved = {DECHAFF_PASSES: own / "default.onnx", DENSE_PASSES: own / "dense.onnx"}
    return Prepared(name, layers, folder / "exports", saved, **facts)


def _make(name: str, layers: int | None, part: pathlib.Path, example: tuple[int, int]) -> None:
    """Make a folder under another name, so that an interruption leaves no half of it."""
    staging = part.with_name(f".{part.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    task = {"name": name, "layers": layers, "folder": str(staging), "part": part.name}
    run_child("benchmarks.prepared", task | {"example": list(example)})
    os.replace(staging, part)


def _export(model: ModelUnderTest, folder: pathlib.Path) -> None:
    exports = Exports(model, folder)
    exports.fused(18)
    exports.plain(23)
    embeddings = {
        id(parameter)
        for layer in model.module.modules()
        if type(layer).__name__ == "Embedding"
        for parameter in layer.parameters()
    }
    parameters = sum(p.numel() for p in model.module.parameters() if id(p) not in embeddings)
    facts = {"vocabulary": model.vocabulary, "parameters": parameters}
    (folder / "model.json").write_text(json.dumps(facts))


def _optimize(model: ModelUnderTest, folder: pathlib.Path, shape: tuple[int, int]) -> None:
    import torch

    import dechaff

    example = {
        name: torch.from_numpy(array)
        for name, array in make_inputs(*shape, "uniform", model.vocabulary).items()
    }
    target = AUTO
    for file, passes in (("default", DECHAFF_PASSES), ("dense", DENSE_PASSES)):
        optimized = dechaff.optimize(
            model.module, example, target=target, passes=passes, verify="off", progress=False
        )
        optimized.save(folder / f"{file}.onnx", external_data=True)
        report = optimized.report
        assert report is not None  # optimize() always gives one
        target = report.target  # the limit is that of the same kernels
        (folder / f"{file}.txt").write_text(f"{report}\n", encoding="utf-8")


def make_part(task: dict[str, Any]) -> None:
    """Make one folder: the exports, or dechaff's files."""
    model, folder = ModelUnderTest(task["name"], task["layers"]), pathlib.Path(task["folder"])
    if task["part"] == "exports":
        _export(model, folder)
    else:
        rows, length = task["example"]
        _optimize(model, folder, (rows, length))


def main() -> None:
    """In the child: make one folder."""
    make_part(child_task())
    child_result("made")


if __name__ == "__main__":
    main()
