"""Builds the page: template, style, scripts and trace in one file that asks for nothing else.

The trace is embedded compressed and in base64, so that no name in it can be read as markup, and
the page's content security policy admits only this script and this style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from typing import Any

from dechaff.trace_file import pack_trace

SCRIPTS = (
    "elements.js",
    "formulas.js",
    "trace.js",
    "differences.js",
    "homes.js",
    "grouping.js",
    "layering.js",
    "positions.js",
    "layout.js",
    "errors.js",
    "drawing.js",
    "panes.js",
    "timeline.js",
    "provenance.js",
    "details.js",
    "node_details.js",
    "text_view.js",
    "stage.js",
    "expansion.js",
    "walking.js",
    "appearance.js",
    "search.js",
    "code_view.js",
    "keyboard.js",
    "address.js",
    "viewer.js",
    "main.js",
)
"""The page's scripts in the order in which they are joined; later ones use earlier ones."""

_WRAPPED = '"use strict";\n(() => {{\n{}\n}})();\n'


def render_page(trace: dict[str, Any]) -> str:
    """The page that shows a trace; see ``trace.schema.json``."""
    script = _WRAPPED.format("\n".join(_source(name) for name in SCRIPTS))
    style = _source("style.css")
    parts = {
        "{{policy}}": _policy(script, style),
        "{{style}}": style,
        "{{trace}}": base64.b64encode(pack_trace(trace)).decode("ascii"),
        "{{script}}": script,
    }
    page = _source("page.html")
    for place, text in parts.items():
        page = page.replace(place, text)
    return page


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _source(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
