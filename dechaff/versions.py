"""Versions of what takes part in a run."""

from __future__ import annotations

import importlib.metadata
import sys

from dechaff import __version__

_PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def package_versions() -> dict[str, str]:
    """Version by package: dechaff, what it stands on, and torch if it is in use."""
    names = [*_PACKAGES, *(["torch"] if "torch" in sys.modules else [])]
    return {"dechaff": __version__} | {name: importlib.metadata.version(name) for name in names}
