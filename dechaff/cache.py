"""Results of slow measurements, kept between runs.

An entry is a small JSON file named by the digest of what the result depends on. It is written under
another name and renamed, so that concurrent runs see whole entries only; the last one wins. A cache
that cannot be read or written is none, and never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from dechaff.ir import cache_folder


def cached(key: Mapping[str, Any], compute: Callable[[], Any], *, use: bool = True) -> Any:
    """What ``compute`` gives, or gave for the same key before.

    Args:
        key: all that the result depends on, as JSON has it: versions and the machine too.
        compute: gives something that JSON can hold.
        use: whether to read and write the cache; else ``compute`` is called and that is all.
    """
    if not use:
        return compute()
    found = find_entry(key)
    if found is not None:
        return found
    result = compute()
    keep_entry(key, result)
    return result


def find_entry(key: Mapping[str, Any]) -> Any:
    """What was kept under a key; None if nothing was."""
    text, path = _place(key)
    entry = _read(path)
    if entry is None or entry.get("key") != json.loads(text):
        return None
    return entry.get("result")


def keep_entry(key: Mapping[str, Any], result: Any) -> None:
    """Keep a result, which JSON can hold, under all that it depends on."""
    _, path = _place(key)
    _write(path, {"key": key, "result": result})


def _place(key: Mapping[str, Any]) -> tuple[str, pathlib.Path]:
    text = json.dumps(key, sort_keys=True)
    return text, cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None


def _write(path: pathlib.Path, entry: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file)
            os.replace(staged, path)
        except OSError:
            pathlib.Path(staged).unlink(missing_ok=True)
            raise
    except OSError:
        return  # a full or read-only disk costs time, not the run
