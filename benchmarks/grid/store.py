"""What was measured, as small files of the repository, so that a grid goes on in later sessions.

A folder per machine holds ``machine.json`` and one file per cell. A cell counts as measured while
its ``key`` is that of today: what runs (dechaff's graph without its weights, and how sessions are
set up) and the versions of the packages that run it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from typing import Any

from benchmarks.machine import versions
from dechaff.backends import machine_name

from .cells import Cell

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_DESCRIPTION = "machine.json"
_RUNTIMES = ("torch", "onnxruntime", "onnxscript", "openvino", "transformers")
"""Whose versions decide how fast a contestant is."""


def machine_folder(measured: pathlib.Path, threads: int) -> pathlib.Path:
    """The folder of this machine's cells; what is measured on another is another."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine_name()} {threads} threads".lower()).strip("-")
    return measured / slug


def cell_key(graph: pathlib.Path) -> str:
    """Eight letters that change with what runs: graph, session settings, versions.

    Args:
        graph: dechaff's model file, its weights beside it.
    """
    digest = hashlib.sha256(graph.read_bytes())
    backends = _ROOT / "backends"
    for path in [*sorted(backends.glob("*/session*.py")), backends / "row_groups.py"]:
        digest.update(path.read_bytes())
    found = versions()
    digest.update(repr([found.get(name) for name in _RUNTIMES]).encode())
    return digest.hexdigest()[:8]


def write_machine(folder: pathlib.Path, description: dict[str, str]) -> None:
    """Store what the machine is."""
    _write(folder / _DESCRIPTION, description)


def read_machine(folder: pathlib.Path) -> dict[str, str]:
    """What the machine is."""
    description: dict[str, str] = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
    return description


def write_cell(folder: pathlib.Path, cell: Cell, figures: dict[str, Any]) -> None:
    """Store a cell's figures, as a whole or not at all."""
    _write(folder / f"{cell.name}.json", figures)


def read_cell(folder: pathlib.Path, cell: Cell) -> dict[str, Any] | None:
    """A cell's figures; None if it has not been measured."""
    try:
        figures: dict[str, Any] = json.loads((folder / f"{cell.name}.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return figures


def read_cells(folder: pathlib.Path) -> dict[Cell, dict[str, Any]]:
    """All cells that were measured, in the order of models, lengths, batches, sequences."""
    found = {}
    for path in folder.glob("*.json"):
        if path.name != _DESCRIPTION:
            figures = json.loads(path.read_text("utf-8"))
            found[Cell(**figures["cell"])] = figures
    return dict(sorted(found.items()))


def _write(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(staged, path)
