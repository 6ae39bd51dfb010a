"""TVM's tensor intrinsics, which schedules name: tensor cores, wide instructions of processors."""

from __future__ import annotations

import importlib
import inspect
import threading

_FROZEN = ("importlib._bootstrap", "importlib._bootstrap_external")
"""Modules of every import that have no source file."""


def load_tensor_intrinsics() -> None:
    """Import TVM's tensor intrinsics without the minute that this takes by itself.

    Each of some five hundred functions in there asks ``inspect`` for the whole stack when it is
    imported. For a frame without a source file ``inspect`` looks through all loaded modules, again
    each time; its table of known files spares it that. A thread of its own keeps the stack short.
    """
    known = vars(inspect)["modulesbyfile"]
    known.update({f"<frozen {name}>": name for name in _FROZEN})
    thread = threading.Thread(target=importlib.import_module, args=("tvm.s_tir.tensor_intrin",))
    thread.start()
    thread.join()
