"""The passes there are, as a table: name, numerics, options with defaults, what each does."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from rich.table import Table
from rich.text import Text

from dechaff.passes import PASSES, PIPELINES, Pass


def pass_table() -> Table:
    """A row per pass."""
    table = Table("pass", "numerics", "default", "options", "what it does")
    for entry in map(_entry, PASSES):
        options = "\n".join(f"{name}={default}" for name, default in entry["options"].items())
        default = "yes" if entry["default"] else "no"
        cells = (entry["name"], entry["numerics"], default, options, entry["documentation"])
        table.add_row(*map(Text, cells))  # brackets are no markup
    return table


def catalogue_json() -> str:
    """The passes and the pipelines as JSON."""
    pipelines = {name: [step.name for step in steps] for name, steps in PIPELINES.items()}
    return json.dumps(
        {"passes": [_entry(p) for p in PASSES], "pipelines": pipelines}, indent=2, default=str
    )


def pipeline_lines() -> list[str]:
    """Each named pipeline with its passes in order."""
    return [
        f"{name}: {', '.join(step.name for step in steps) or 'no passes'}"
        for name, steps in PIPELINES.items()
    ]


def _entry(pass_type: type[Pass]) -> dict[str, Any]:
    fields = dataclasses.fields(pass_type.options_type)
    return {
        "name": pass_type.name,
        "numerics": pass_type.numerics.value,
        "default": pass_type in PIPELINES["default"],
        "options": {field.name: _option_default(field) for field in fields},
        "documentation": (inspect.getdoc(pass_type) or "").split("\n", maxsplit=1)[0],
    }


def _option_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)"
