"""How a list of passes is written, the same in Python, on the command line and in a config file.

``"default,quantize-weights{bits=4,group=128},-merge-qkv"``: names of passes and of pipelines in
order; options in braces; a leading minus leaves a pass out.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from dechaff.ir import UsageError

from .pass_base import Pass
from .pipelines import PASSES, PIPELINES

PassList = str | Sequence[str | Pass]

_ITEM = re.compile(r"\s*(-?)([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*")


def parse_pass_list(passes: PassList) -> list[Pass]:
    """The passes that a list names, in order; those that run last come behind the others.

    Raises:
        UsageError: a name or an option that does not exist, a value of the wrong type, or an order
            that breaks a pass's ``after``.
    """
    chosen: list[Pass] = []
    items: Iterable[str | Pass] = [passes] if isinstance(passes, str) else passes
    for item in items:
        if isinstance(item, Pass):
            chosen.append(item)
            continue
        for text in _split(item):
            chosen = _apply_item(chosen, text)
    chosen.sort(key=lambda step: step.runs_last)  # a stable sort: all else stays in order
    _check_order(chosen)
    return chosen


def passes_to_add_to(passes: PassList) -> list[Pass]:
    """The passes that a list names, but for those that would run behind any other.

    Raises:
        UsageError: as :func:`parse_pass_list`.
    """
    return [step for step in parse_pass_list(passes) if not step.runs_last]


def _split(text: str) -> list[str]:
    """Split at commas outside braces."""
    parts = re.split(r",(?![^{]*\})", text)
    return [part for part in parts if part.strip()]


def _apply_item(chosen: list[Pass], text: str) -> list[Pass]:
    match = _ITEM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"pass list: cannot read {text.strip()!r}; "
            "expected a name, a name with options as in 'fold-constants{max_bytes=1024}', or -name"
        )
    minus, name, options = match.group(1), match.group(2).replace("_", "-"), match.group(3)
    if minus:
        return _without(chosen, name)
    if name in PIPELINES:
        if options:
            raise UsageError(f"pass list: the pipeline {name!r} takes no options")
        return chosen + [pass_type() for pass_type in PIPELINES[name]]
    return [*chosen, pass_by_name(name)(_parse_options(name, options or ""))]


def _without(chosen: list[Pass], name: str) -> list[Pass]:
    pass_by_name(name)  # a misspelled name must not pass silently
    return [step for step in chosen if step.name != name]


def pass_by_name(name: str) -> type[Pass]:
    """The pass of that name.

    Raises:
        UsageError: there is none; the message suggests the nearest names.
    """
    for pass_type in PASSES:
        if pass_type.name == name:
            return pass_type
    known = [pass_type.name for pass_type in PASSES] + list(PIPELINES)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise UsageError(f"there is no pass {name!r}: {hint}")


def _parse_options(name: str, text: str) -> Any:
    options_type = pass_by_name(name).options_type
    types = get_type_hints(options_type)
    fields = {field.name for field in dataclasses.fields(options_type)}
    values: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, separator, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or key not in fields:
            offered = ", ".join(sorted(fields)) or "none"
            raise UsageError(f"pass {name}: cannot read option {part!r}; its options are {offered}")
        values[key] = _convert(name, key, value.strip(), types[key])
    try:
        return options_type(**values)
    except ValueError as error:
        raise UsageError(f"pass {name}: {error}") from error


def _convert(pass_name: str, option: str, text: str, wanted: Any) -> Any:
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted in (int, float, str):
            return wanted(text)
    except (KeyError, ValueError):
        pass
    name = getattr(wanted, "__name__", str(wanted))
    raise UsageError(f"pass {pass_name}: option {option} expects {name}, got {text!r}")


def _check_order(chosen: Sequence[Pass]) -> None:
    """A pass may be listed again: what it must come after then stands before it already."""
    position: dict[str, int] = {}
    for index, step in enumerate(chosen):
        position.setdefault(step.name, index)
    for index, step in enumerate(chosen):
        for earlier in step.after:
            if position.get(earlier, -1) > index:
                raise UsageError(f"pass list: {step.name} must come after {earlier}; swap the two")
