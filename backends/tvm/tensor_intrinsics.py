"""TVM's tensor intrinsics, which schedules name: tensor cores, wide instructions of processors."""

from __future__ import annotations

import importlib
import threading

from .quick_inspection import quicken_inspection


def load_tensor_intrinsics() -> None:
    """Import TVM's tensor intrinsics without the minute that this takes by itself.

    Each of some five hundred functions in there asks ``inspect`` for the whole stack when it is
    imported. A thread of its own keeps the stack short.
    """
    quicken_inspection()
    thread = threading.Thread(target=importlib.import_module, args=("tvm.s_tir.tensor_intrin",))
    thread.start()
    thread.join()
