"""Spares TVM most of the time that it asks ``inspect`` where code came from."""

from __future__ import annotations

import inspect

_SOURCELESS = {
    "<frozen importlib._bootstrap>": "importlib._bootstrap",
    "<frozen importlib._bootstrap_external>": "importlib._bootstrap_external",
    "<frozen runpy>": "runpy",
    "<ast>": "ast",
    "<string>": "builtins",
}
"""What frames without a source file name as theirs, and a module that may stand for it."""


def quicken_inspection() -> None:
    """Tell ``inspect`` of files that are none, so that it does not look for them.

    For every frame of a stack it wants to know the module. Where the file is not in its table, it
    looks through all loaded modules, again each time: some milliseconds where torch is loaded. TVM
    asks for whole stacks, for each call in a kernel that is written in its script.
    """
    vars(inspect)["modulesbyfile"].update(_SOURCELESS)
