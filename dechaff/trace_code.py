"""Generated code in a trace: the source of the kernels, as far as there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel

_MOST_CHARACTERS = 4_000_000
"""Of all kernels together; a page holds the trace, compressed to about a tenth."""


def code_data(compiled: CompiledModel) -> dict[str, Any]:
    """The source of each kernel by name; the longest are left out where it would be too much."""
    sources = compiled.kernel_sources()
    kept, room = set(), _MOST_CHARACTERS
    for name in sorted(sources, key=lambda name: len(sources[name])):
        room -= len(sources[name])
        if room < 0:
            break
        kept.add(name)
    return {
        "target": compiled.target_text,
        "kernels": [[name, text] for name, text in sources.items() if name in kept],
        "omitted": len(sources) - len(kept),
    }
