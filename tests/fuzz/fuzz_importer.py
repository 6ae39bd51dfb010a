"""Coverage-guided fuzzing of the importer: ``make fuzz``, or with libFuzzer's own options.

The bytes are read as a model file. Whatever they hold, the importer gives a module or refuses with
``ModelRejectedError``; anything else is a defect, and the bytes are written to a file.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["dechaff", "onnx_ir"]):
    from dechaff.frontend import from_onnx
    from dechaff.ir import ModelRejectedError

logging.disable(logging.CRITICAL)
_FOLDER = tempfile.TemporaryDirectory(prefix="dechaff-fuzz-")
_MODEL = pathlib.Path(_FOLDER.name) / "model.onnx"


def read(data: bytes) -> None:
    """Read bytes as a model file."""
    _MODEL.write_bytes(data)
    try:
        from_onnx(_MODEL)
    except ModelRejectedError:
        return


def write_seeds(folder: pathlib.Path) -> None:
    """The smaller files of the hostile corpus: each stands for a road through the importer."""
    sys.path.insert(0, os.fspath(pathlib.Path(__file__).resolve().parents[2]))
    from tests.hostile.runner import CORPUS

    folder.mkdir(parents=True, exist_ok=True)
    for item in CORPUS:
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name) / "in"
            place.mkdir()
            (place.parent / "secret.bin").write_bytes(b"s" * 64)
            path = item.make(place) or place / "model.onnx"
            if path.is_file() and path.stat().st_size < 10_000:
                (folder / item.name).write_bytes(path.read_bytes())


def main() -> None:
    """Fuzz; the first folder among the arguments holds the corpus."""
    folders = [word for word in sys.argv[1:] if not word.startswith("-")]
    if folders and not pathlib.Path(folders[0]).exists():
        write_seeds(pathlib.Path(folders[0]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
