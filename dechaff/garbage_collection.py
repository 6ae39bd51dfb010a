"""Python's garbage collector during an optimization: fewer and smaller collections."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_THRESHOLDS = (20_000, 5, 5)
"""A graph copied by a pass is some ten thousand objects; with Python's 700 each copy is searched
dozens of times while it is made."""


@contextlib.contextmanager
def fewer_collections() -> Iterator[None]:
    """Collect seldom, and look only at what is made from here on.

    Graphs are cycles of many small objects, so that collections would take a tenth of the time of
    passes, most of it on modules and models that were there before and stay.
    """
    if gc.get_freeze_count():  # frozen by the caller, or by an optimization in another thread
        yield
        return
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
